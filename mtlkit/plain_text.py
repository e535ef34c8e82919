"""Text for a terminal: characters that would steer it are shown as what they are."""

#: Characters that order the text after them from right to left, or end that (Unicode, annex 9).
DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
#: Control characters except for the line feed and the tabulator, further line ends, and halves of characters, by which
#: Python names files whose names are no text.
CONTROL = {*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0xD800, 0xE000), *DIRECTIONS} - {0x0A, 0x09}
SHOWN = {code: chr(code).encode("unicode_escape").decode() for code in CONTROL}


def plain(text: str) -> str:
    r"""Returns a text that a terminal only shows. Names and messages may come from files that anybody made.

    An escape sequence could move the cursor, rename the window or hide a warning, and \r overwrites the line.

    >>> print(plain("caf\u00e9 \x1b[2Jred\r\u202egnp.jpg"))
    café \x1b[2Jred\r\u202egnp.jpg
    """
    return text.translate(SHOWN)


def short(text: str, most: int = 500) -> str:
    """Returns the text or, where it is longer, its begin and its end: a message must not be a page of one value.

    >>> short("x" * 10), short("0123456789" * 3, 20)
    ('xxxxxxxxxx', '0123456789 ... 56789')
    """
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[len(text) - most // 4 :]}"

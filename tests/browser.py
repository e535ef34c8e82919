"""Opens pages in a headless Chromium and asks them questions."""

import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="There is no Chromium here (chromium, chromium-browser, google-chrome)."
)
DARK = "--blink-settings=preferredColorScheme=0"

#: Says how wide the page is, its colours, which words of drawings are cut off, and whether the keyboard reaches boxes.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const say = (name, value) => console.log(`PROBE ${name}=${value};`)
  const style = getComputedStyle(document.body)
  say("width", document.documentElement.scrollWidth + " of " + innerWidth)
  say("colours", style.color + " on " + style.backgroundColor)
  say("cut", [...document.querySelectorAll("figure > svg text")].filter(t => {
    const a = t.getBoundingClientRect(), b = t.closest("svg").getBoundingClientRect()
    return a.width && (a.left < b.left - 2 || a.right > b.right + 2 || a.bottom > b.bottom + 2) })
    .map(t => t.textContent).join("|"))
  say("reach", [...document.querySelectorAll(".scroll")].every(box => box.tabIndex === 0)) }, 300))
</script>"""


def browse(path, *options):
    """Opens a page in Chromium and returns what the probe says. There must be no other line of the console."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=2000", f"--user-data-dir={path.parent / 'profile'}"]
    done = subprocess.run([*command, *options, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert all("PROBE" in line for line in lines), lines
    return dict(re.findall(r"PROBE (\w+)=(.*?);", "".join(lines)))


def on_a_phone(page, folder, *options, dark=True):
    """Opens a page in a frame of 390 px, because a window cannot be narrower than 500 px."""
    path = folder / "probe.html"
    path.write_text(page.replace("</body>", f"{PROBE}</body>"))
    frame = folder / "frame.html"
    scheme = "dark" if dark else "light"
    style = f"<style>:root {{ color-scheme: {scheme} }} iframe {{ border: 0 }}</style>"
    frame.write_text(f'<!doctype html>{style}<iframe src="probe.html" width=390 height=800></iframe>')
    return browse(frame, *([DARK] if dark else []), *options)


def contrast(first, second):
    """Returns the contrast of two CSS colours, as WCAG defines it."""
    light, dark = sorted(map(luminance, (first, second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

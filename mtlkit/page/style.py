"""The style of every page: colours for light and dark, text, tables, drawings, and paper."""

from mtlkit.page.look import COLOURS, colour_style

BASE = f"""
:root {{ color-scheme: light dark; --ink: #1d2330; --soft: #59606e; --paper: #fff; --rule: #8884; --raised: #f5f6f9;
  --good: #1a7f37; --bad: #c4292b; {colour_style(False)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #d8dce6; --soft: #a3a9b8; --paper: #15181e; --raised: #1d2129;
  --good: #4ac26b; --bad: #ff7b72; {colour_style(True)} }} }}
{" ".join(f".c{place} {{ color: var(--c{place}) }}" for place in range(len(COLOURS)))}
""" + """
* { box-sizing: border-box }
body { max-width: 72rem; margin: 2.5rem auto 5rem; padding: 0 1rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 }
h2 { font-size: 1.15rem; margin: 0 0 .4rem }
h3 { font-size: .95rem; margin: 1.4rem 0 .3rem }
p { margin: .3rem 0 1rem } p, figcaption small, dt { color: var(--soft) } dl { margin: .6rem 0 } dd { margin: 0 }
section { margin-top: 3.2rem } section > p, .legend { max-width: 48rem; font-size: .9rem }
b, strong { font-weight: 650 } a { color: var(--c0) } u { text-decoration-thickness: 1px; text-underline-offset: 3px }
i { font-style: normal; font-weight: 400; color: var(--soft) }
small { display: block; color: var(--soft); font-weight: 400; font-size: .8em }
.answer { font-size: 1.25rem; line-height: 1.4; color: var(--ink); max-width: 48rem; margin: .6rem 0 }
.kind { font-size: .9rem } .soft { color: var(--soft) }
.remarks { margin: 1rem 0; padding-left: 1.1rem; font-size: .9rem; max-width: 48rem }
.good { color: var(--good) } .bad { color: var(--bad) }
table { border-collapse: collapse; font-size: .85rem }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; white-space: nowrap }
th { border-bottom: 1px solid var(--rule); position: sticky; top: 0; background: var(--paper) }
.n { text-align: right; font-variant-numeric: tabular-nums }
.scroll { max-width: 100%; overflow: auto }
figure { margin: 0; min-width: 0; max-width: 27rem; break-inside: avoid }
figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .2rem }
figcaption small { display: inline; font-size: .85em }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20.5rem, 100%), 1fr)); gap: 1.6rem 1.8rem;
  margin-top: .8rem }
.panels > section { margin: 0; min-width: 0 }
svg { width: 100%; height: auto; display: block }
svg text { font-family: system-ui, sans-serif; font-size: 11.5px; fill: var(--ink) }
svg .tick, svg .small { font-size: 10.5px } svg .tick, svg .soft { fill: var(--soft) }
svg .end { text-anchor: end } svg .middle { text-anchor: middle }
svg .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round }
svg .figures { font-size: 10.5px; font-variant-numeric: tabular-nums }
svg .guide { stroke: var(--rule); stroke-width: .6 }
svg .zero { stroke: var(--ink); stroke-width: 1.1; opacity: .75 } svg .axis { stroke: var(--soft); stroke-width: .8 }
svg .lead { stroke: var(--soft); stroke-width: .6; opacity: .7 } svg .stripe { fill: var(--rule); opacity: .25 }
svg .bar { stroke: currentColor; stroke-width: 1.8; fill: none }
svg .curve { stroke: currentColor; stroke-width: 1.7; fill: none; stroke-linejoin: round }
svg .band { fill: currentColor; opacity: .15 } svg .dot { fill: currentColor }
svg .hollow { fill: var(--paper); stroke: currentColor; stroke-width: 1.6 }
svg .stroke { stroke: currentColor; stroke-width: 2.2 } svg .same { stroke: var(--ink); stroke-width: 2.6 }
svg .thin { opacity: .6 }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding: 0; margin: 3.2rem 0 -1.6rem;
  font-size: .9rem } .key svg { display: inline-block; width: 2.1rem; margin-right: .5rem; vertical-align: -.05rem }
.numbers { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: .85rem; margin-top: .6rem; align-items: start }
.numbers details[open] { flex-basis: 100% } details { min-width: 0; max-width: 100% } summary { cursor: pointer }
summary small { display: inline } .numbers .scroll { max-height: 24rem }
.numbers td, .numbers th { text-align: right; font-variant-numeric: tabular-nums } .numbers .t { text-align: left }
section > .csv { font-size: .85rem }
dl.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.2rem; font-size: .9rem }
pre { white-space: pre-wrap; font-size: .85rem }
:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px }
@media (max-width: 36rem) { h1 { font-size: 1.5rem } .answer { font-size: 1.1rem } body { margin-top: 1.2rem }
  dl.facts { grid-template-columns: 1fr } dd { margin-bottom: .5rem } }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --paper: #fff; --raised: #f5f6f9; --rule: #ccc;
    --good: #1a7f37; --bad: #c4292b; LIGHT }
  body { margin: 0; padding: 0; max-width: none; font-size: 10pt } section { margin-top: 1.6rem }
  .panels { grid-template-columns: repeat(3, 1fr) } .scroll, .numbers .scroll { overflow: visible; max-height: none }
  .numbers table { font-size: 7.5pt } .numbers td, .numbers th { white-space: normal; padding: 0 .5rem 0 0 }
  th { position: static }
  section > p, tr, h2 { break-inside: avoid }
  h2::after { content: ""; display: block; height: 7cm; margin-bottom: -7cm }
  h2, h3, section > p, .key, summary, figcaption { break-after: avoid }
  details:not(.long)::details-content { content-visibility: visible; height: auto } .csv, details.long { display: none }
}
""".replace("LIGHT", colour_style(False))


def document(title: str, style: str, body: str) -> str:
    """Returns a whole page. `title` is HTML text, `style` comes after that of every page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} – mtlkit</title><style>{BASE}{style}</style></head>\n"
        f"<body><main>\n{body}</main></body></html>\n"
    )

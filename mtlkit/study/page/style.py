"""The style of the page, on top of that of a run's report."""

from mtlkit.report.page import STYLE as REPORT
from mtlkit.study.page.looks import COLOURS, colour_style

STYLE = f"""{REPORT}
:root {{ --soft: #59606e; {colour_style(False)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --soft: #a3a9b8; {colour_style(True)} }} }}
{" ".join(f".c{place} {{ color: var(--c{place}) }}" for place in range(len(COLOURS)))}
.single {{ color: var(--soft) }}
""" + """
* { box-sizing: border-box }
body { overflow-wrap: break-word; margin: 2.5rem auto 5rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 }
h2 { font-size: 1.15rem; margin: 0 0 .4rem; border: 0 }
section { margin-top: 3.2rem } section > p, .legend { max-width: 48rem; font-size: .9rem }
.legend { margin: .3rem 0 } b, strong { font-weight: 650 } a { color: var(--c0) }
u { text-decoration-thickness: 1px; text-underline-offset: 3px }
.answer { font-size: 1.25rem; line-height: 1.4; color: var(--ink); max-width: 48rem; margin: .6rem 0 }
.kind { font-size: .9rem } .soft { color: inherit }
.test { background: var(--bad); color: var(--paper); padding: .15rem .5rem; border-radius: .2rem; margin-right: .4rem;
  text-transform: uppercase; letter-spacing: .04em }
.remarks { margin: 1rem 0; padding-left: 1.1rem; font-size: .9rem; max-width: 48rem }
.verdicts td:last-child { overflow-wrap: normal }
.verdicts { margin: 1rem 0; font-size: .9rem } .verdicts td, .verdicts th { white-space: normal; position: static }
table { font-size: .85rem } td, th { vertical-align: top }
i { font-style: normal; font-weight: 400; color: var(--soft) }
small { display: block; color: var(--soft); font-weight: 400; font-size: .8em }
.scroll { max-width: 100%; max-height: none } .main { margin: .6rem 0 }
.main td, .main th { padding: .3rem .6rem; line-height: 1.3 }
.main thead th { vertical-align: bottom; position: static; border: 0 }
.main thead tr:last-child th { border-bottom: 1.5px solid var(--ink) }
.main thead .group { text-align: center; border-bottom: 1px solid var(--rule) } .main thead .n { text-align: right }
.main tbody tr > * { border-bottom: 1px solid var(--rule) } .main tbody tr:last-child > * { border-color: var(--ink) }
.main tbody th { font-weight: 600; position: sticky; left: 0; top: auto; background: var(--paper); white-space: nowrap }
.name { display: inline-block; vertical-align: top; white-space: normal; overflow-wrap: anywhere; width: max-content;
  max-width: 13rem } .main tbody th.wrap { font-weight: 400; white-space: normal; min-width: 9rem; max-width: 26rem }
.main tbody .base > * { color: var(--soft) } td small { white-space: nowrap }
.mark { display: inline-block; width: .75rem; margin-right: .4rem; vertical-align: -.05rem; overflow: visible }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20.5rem, 100%), 1fr)); gap: 1.6rem 1.8rem;
  margin-top: .8rem }
.panels > section { margin: 0; min-width: 0 } .pair { margin-top: 3.2rem }
figure { break-inside: avoid; max-width: 27rem; min-width: 0 } figcaption { margin-bottom: .2rem }
figcaption small { display: inline; font-size: .85em }
svg text { font-size: 11.5px; fill: var(--ink) } svg .tick, svg .small { font-size: 10.5px }
svg .tick, svg .soft { fill: var(--soft) } svg .end { text-anchor: end } svg .middle { text-anchor: middle }
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
:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px }
dl.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.2rem; font-size: .9rem }
h3 { font-size: .95rem; margin: 1.4rem 0 .3rem } pre { white-space: pre-wrap }
@media (max-width: 36rem) { h1 { font-size: 1.5rem } .answer { font-size: 1.1rem } body { margin-top: 1.2rem }
  .name { max-width: 6.2rem } .main td, .main th { padding: .3rem .5rem .3rem .1rem }
  dl.facts { grid-template-columns: 1fr }
  dd { margin-bottom: .5rem } }
@page { size: A4 landscape; margin: 12mm }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --paper: #fff; --rule: #ccc; --good: #1a7f37; --bad: #c4292b;
    LIGHT }
  body { margin: 0; padding: 0; max-width: none; font-size: 10pt } section { margin-top: 1.6rem }
  .panels { grid-template-columns: repeat(3, 1fr) } .scroll, .numbers .scroll { overflow: visible; max-height: none }
  .numbers table { font-size: 7.5pt } .numbers td, .numbers th { white-space: normal; padding: 0 .5rem 0 0;
    position: static }
  .main, .pair, section > p { break-inside: avoid } .main td, .main th { padding: .2rem .35rem }
  tr { break-inside: avoid }
  h2 { break-inside: avoid } h2::after { content: ""; display: block; height: 7cm; margin-bottom: -7cm }
  h2, h3, section > p, .key, summary, figcaption { break-after: avoid }
  details:not(.long)::details-content { content-visibility: visible; height: auto } .csv, details.long { display: none }
}
""".replace("LIGHT", colour_style(False))

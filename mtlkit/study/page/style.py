"""The style of the page, on top of that of every page."""

STYLE = """
.single { color: var(--soft) } .kind .soft { color: inherit }
.test { background: var(--bad); color: var(--paper); padding: .15rem .5rem; border-radius: .2rem; margin-right: .4rem;
  text-transform: uppercase; letter-spacing: .04em }
.verdicts td:last-child { overflow-wrap: normal }
.verdicts { margin: 1rem 0; font-size: .9rem } .verdicts td, .verdicts th { white-space: normal; position: static }
.main { margin: .6rem 0 } .main td, .main th { padding: .3rem .6rem; line-height: 1.3 }
.main thead th { vertical-align: bottom; position: static; border: 0 }
.main thead tr:last-child th { border-bottom: 1.5px solid var(--ink) }
.main thead .group { text-align: center; border-bottom: 1px solid var(--rule) } .main thead .n { text-align: right }
.main tbody tr > * { border-bottom: 1px solid var(--rule) } .main tbody tr:last-child > * { border-color: var(--ink) }
.main tbody th { font-weight: 600; position: sticky; left: 0; top: auto; background: var(--paper); white-space: nowrap }
.name { display: inline-block; vertical-align: top; white-space: normal; overflow-wrap: anywhere; width: max-content;
  max-width: 13rem } .main tbody th.wrap { font-weight: 400; white-space: normal; min-width: 9rem; max-width: 26rem }
.main tbody .base > * { color: var(--soft) } td small { white-space: nowrap }
.mark { display: inline-block; width: .75rem; margin-right: .4rem; vertical-align: -.05rem; overflow: visible }
.pair { margin-top: 3.2rem }
@media (max-width: 36rem) { .name { max-width: 6.2rem } .main td, .main th { padding: .3rem .5rem .3rem .1rem } }
@page { size: A4 landscape; margin: 12mm }
@media print { .main, .pair { break-inside: avoid } .main td, .main th { padding: .2rem .35rem } }
"""

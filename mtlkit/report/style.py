"""The style of the report of a run, on top of that of every page."""

STYLE = """
header p { margin: .2rem 0 } header nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .9rem;
  margin-top: 1rem; padding: .5rem 0; border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule) }
section > h2 { font-size: 1.4rem } section > h3 { margin-top: 2rem; font-size: 1.05rem }
.scroll + p, .scroll + .panels, .scroll + .boxes { margin-top: 1.2rem }
section p { max-width: 48rem; font-size: .9rem } code { font-size: .92em }
.warning { border-left: 3px solid var(--bad); padding: .1rem 0 .1rem .9rem; margin: 1rem 0; font-size: .9rem }
.warning .scroll { max-height: 14rem } .warning ul { margin: .2rem 0; padding-left: 1.1rem }
.figures td, .figures th { padding: .22rem .7rem .22rem 0; white-space: normal }
.figures th:not([scope=col]) { font-weight: 400; border: 0; position: static }
.figures .task th { font-weight: 650; padding-top: .8rem } .figures thead th { vertical-align: bottom }
td.bar { background: linear-gradient(to right, color-mix(in srgb, var(--c0) 28%, transparent) var(--part), transparent
  var(--part)); padding-left: .5rem; min-width: 5rem }
tbody th { font-weight: 400; border: 0; position: static }
.boxes { display: grid; gap: 1rem 2.5rem; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)) }
.boxes .scroll { max-height: 26rem } summary { font-weight: 600; font-size: .9rem; padding: .2rem 0 }
svg .level { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 5 3; opacity: .6 }
svg .ring { fill: none; stroke: currentColor; stroke-width: 1.8 } svg .noisy { stroke-width: 1.1; opacity: .85 }
svg .cursor { stroke: var(--ink); stroke-width: .8 } svg .tiny { font-size: 9px }
svg .pixels { image-rendering: pixelated }
svg .good { color: var(--good) } svg .bad { color: var(--bad) } svg circle.soft, svg line.soft { color: var(--soft) }
svg[data-plot] { touch-action: pan-y }
figure output { display: block; font-size: .78rem; min-height: 1.2em; color: var(--soft);
  font-variant-numeric: tabular-nums }
.smoothing { display: flex; align-items: center; gap: .8rem } .smoothing label { display: flex; gap: .6rem }
.sample { margin: 1.6rem 0 0; padding-top: .6rem; border-top: 1px solid var(--rule) }
.sample h4 { margin: 0 0 .5rem; font-size: .95rem } .sample h4 small { display: inline; font-size: .85em }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)) }
.cards figure { max-width: 24rem } .cards > div figure + figure { margin-top: 1rem }
.cards img { width: 100%; display: block } img.small { image-rendering: pixelated }
.kinds { display: grid; gap: .4rem } .kinds > div { min-width: 0 } .kinds small { margin-bottom: .1rem }
.legends { display: grid; gap: .5rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); font-size: .85rem; margin: .8rem 0 }
.swatches { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap; gap: .15rem .9rem }
.swatches i { display: inline-block; width: .85rem; height: .85rem; margin-right: .35rem; vertical-align: -.1rem;
  border: 1px solid var(--rule) }
.ramp { display: flex; align-items: center; gap: .5rem; font-variant-numeric: tabular-nums }
.ramp i { height: .8rem; width: 9rem; border: 1px solid var(--rule) }
.cells td { padding: .1rem .25rem; text-align: right; font-size: .75rem; min-width: 1.6rem;
  font-variant-numeric: tabular-nums } .cells th { font-size: .75rem; padding: .1rem .35rem }
.cells thead th { writing-mode: vertical-rl; position: static; border: 0; font-weight: 400 }
.cells .right, .cells .wrong { background: color-mix(in srgb, var(--tint) var(--part), transparent) }
.cells .right { --tint: var(--c0) } .cells .wrong { --tint: var(--c1) }
.cells .right, .cells .wrong { color: var(--ink) }
svg .bubble { fill: currentColor; fill-opacity: .55; stroke: currentColor }
.values { width: 100%; max-width: 20rem }
.values th, .values td { padding: .1rem .6rem .1rem 0; white-space: normal; overflow-wrap: anywhere }
.values td, .values thead th { white-space: nowrap } .values .bar { padding-left: .4rem; min-width: 5rem }
@media (max-width: 36rem) {
  table { font-size: .78rem }
  td, th { padding-right: .5rem } .figures { width: 100% } .figures td, .figures th { padding-right: .35rem }
  .kinds { grid-template-columns: repeat(auto-fit, minmax(5.5rem, 1fr)) } .cards figure { max-width: none }
}
@page { size: A4; margin: 14mm }
@media print { header nav, .smoothing, figure output { display: none } .cards { grid-template-columns: repeat(4, 1fr) }
  .sample, .figures { break-inside: avoid } }
"""

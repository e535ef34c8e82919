// Values under the pointer or the arrow keys, and smoothing. The page is complete without this script.
"use strict";
const lines = svg => [...svg.querySelectorAll("[data-v]")].map(path => ({
  path, name: path.dataset.n, steps: path.dataset.x.split(" ").map(Number), values: path.dataset.v.split(" "),
  points: [...path.getAttribute("d").matchAll(/([ML])([^,]+),([^ML]+)/g)].map(m => [m[1], +m[2], +m[3]]),
}));
const plots = [...document.querySelectorAll("svg[data-plot]")].map(svg => ({svg, lines: lines(svg)}));

for (const {svg, lines} of plots) {
  const output = svg.parentElement.querySelector("output");
  const place = new Map(lines.flatMap(line => line.steps.map((step, i) => [step, line.points[i][1]])));
  const steps = [...place.keys()].sort((a, b) => a - b);
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  svg.append(cursor);
  let at = -1;
  const nearest = (list, wanted) =>
    list.reduce((best, one, i) => Math.abs(one - wanted) < Math.abs(list[best] - wanted) ? i : best, 0);
  const show = index => {
    at = Math.min(Math.max(index, 0), steps.length - 1);
    const x = place.get(steps[at]);
    for (const [name, value] of [["x1", x], ["x2", x], ["y1", 10], ["y2", 186]]) cursor.setAttribute(name, value);
    output.textContent = `step ${steps[at]}: ` + lines.map(line => {
      const i = nearest(line.steps, steps[at]);
      return `${line.name} ${line.values[i]}` + (line.steps[i] === steps[at] ? "" : ` (step ${line.steps[i]})`);
    }).join(", ");
  };
  const hide = () => { at = -1; output.textContent = ""; cursor.removeAttribute("x1"); cursor.removeAttribute("x2"); };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    show(nearest(steps.map(step => place.get(step)), x));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    const move = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1}[event.key];
    if (move === undefined) return;
    show(at < 0 && event.key === "ArrowLeft" ? steps.length - 1 : move);
    event.preventDefault();
  });
}

// An exponential moving average, divided by the sum of its weights, so that its start is not pulled to 0.
const smooth = (points, factor) => {
  let sum = 0, weight = 0;
  return points.map(([command, x, y]) => {
    if (command === "M") sum = weight = 0;
    sum = factor * sum + (1 - factor) * y;
    weight = factor * weight + (1 - factor);
    return `${command}${x},${(sum / weight).toFixed(1)}`;
  }).join("");
};
const slider = document.getElementById("smoothing");
slider?.addEventListener("input", () => {
  slider.closest("p").querySelector("output").textContent = +slider.value ? `factor ${slider.value}` : "none";
  for (const {lines} of plots)
    for (const line of lines)
      if (line.path.classList.contains("noisy")) line.path.setAttribute("d", smooth(line.points, +slider.value));
});

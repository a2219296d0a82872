// One line over time, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 120;

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Draw values, oldest first; return the highest, which is the top of the picture. */
export function draw(svg, values) {
  const top = Math.max(1, ...values);
  const step = WIDTH / Math.max(1, values.length - 1);
  const points = values.map((value, at) =>
    `${(at * step).toFixed(1)},${(HEIGHT - 4 - (value / top) * (HEIGHT - 8)).toFixed(1)}`);
  const grid = [0.25, 0.5, 0.75].map((share) =>
    shape("line", { x1: 0, x2: WIDTH, y1: HEIGHT * share, y2: HEIGHT * share }));
  svg.replaceChildren(...grid);
  if (points.length > 1) {
    svg.append(
      shape("path", { class: "area", d: `M0,${HEIGHT}L${points.join("L")}L${WIDTH},${HEIGHT}Z` }),
      shape("path", { d: `M${points.join("L")}` }),
    );
  }
  return top;
}

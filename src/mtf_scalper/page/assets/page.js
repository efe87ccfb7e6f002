"use strict";

// The plots: figures come from the data as plotly takes them, except that colours are names of CSS
// variables, times may be {start, step, n}, and traces name the choice that they belong to.
const page = { figures: {}, choices: {}, ranges: {} };

async function unpacked(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function colours(value, style) {
  if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
  if (Array.isArray(value)) return typeof value[0] === "object" ? value.map((each) => colours(each, style)) : value;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, colours(each, style)]));
}

function moments(x) {
  return Array.isArray(x) ? x : Array.from({ length: x.n }, (_, row) => x.start + row * x.step);
}

// Candles and lines of which the screen could not show all: joined to what fits, within the range
// that is looked at. Joined candles keep open, highest, lowest and close; lines keep extremes.
function thinned(trace, range, width) {
  const x = moments(trace.x);
  const limit = Math.max(60, Math.floor(width / (trace.meta.thin === "ohlc" ? 3 : 1)));
  let first = 0, last = x.length;
  if (range) {
    const margin = (range[1] - range[0]) * 0.02;
    first = Math.max(0, x.findIndex((moment) => moment >= range[0] - margin));
    const end = x.findIndex((moment) => moment > range[1] + margin);
    last = end < 0 ? x.length : end;
    if (x.length && x[x.length - 1] < range[0] - margin) first = last;
  }
  const least = (last - first) / limit;
  // Of 5m candles: 10 and 15 minutes, half an hour, whole hours, days.
  const size = [1, 2, 3, 6, 12, 24, 48, 96, 144].find((each) => each >= least) || Math.ceil(least / 288) * 288;
  first -= first % size; // the same candles are joined whatever the range
  const result = { ...trace, x: [] };
  if (trace.meta.thin === "ohlc") {
    Object.assign(result, { open: [], high: [], low: [], close: [] });
    for (let row = first; row < last; row += size) {
      const end = Math.min(row + size, last);
      result.x.push(x[row]);
      result.open.push(trace.open[row]);
      result.high.push(Math.max(...trace.high.slice(row, end)));
      result.low.push(Math.min(...trace.low.slice(row, end)));
      result.close.push(trace.close[end - 1]);
    }
    return result;
  }
  result.y = [];
  for (let row = first; row < last; row += size) {
    let low = row, high = row;
    for (let each = row; each < Math.min(row + size, last); each += 1) {
      if (trace.y[each] < trace.y[low]) low = each;
      if (trace.y[each] > trace.y[high]) high = each;
    }
    for (const each of low === high ? [low] : [Math.min(low, high), Math.max(low, high)]) {
      result.x.push(x[each]);
      result.y.push(trace.y[each]);
    }
  }
  return result;
}

function themed(layout, style, element, height) {
  const axis = {
    gridcolor: "--grid", zerolinecolor: "--border", linecolor: "--border", automargin: true,
  };
  const isNarrow = element.clientWidth < 560;
  const base = {
    height,
    autosize: true,
    uirevision: "kept",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: "--text", size: isNarrow ? 11 : 12, family: "system-ui, sans-serif" },
    margin: { l: isNarrow ? 42 : 60, r: 12, t: 10, b: 40 },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { bgcolor: "--surface", bordercolor: "--border", font: { color: "--text" } },
    // With a finger the page is to scroll; the buttons zoom.
    dragmode: isCoarse() ? false : "zoom",
    ...layout,
  };
  for (const key of Object.keys(base)) {
    if (/^[xy]axis\d*$/.test(key)) base[key] = { ...axis, ...base[key] };
  }
  return colours(base, style);
}

function isCoarse() {
  return matchMedia("(pointer: coarse)").matches;
}

function rangeOf(name) {
  const range = page.ranges[name];
  return range ? range.map((moment) => (typeof moment === "number" ? moment : Date.parse(/Z$/.test(moment) ? moment : moment.replace(" ", "T") + "Z"))) : null;
}

async function draw(name) {
  const element = document.getElementById(name);
  const figure = page.figures[name];
  if (!element || !figure) return;
  const style = getComputedStyle(document.documentElement);
  const select = document.getElementById(`${name}-choice`);
  const choice = select ? select.value : null;
  const traces = figure.traces
    .filter((trace) => choice === null || !trace.meta || !trace.meta.choice || [trace.meta.choice].flat().includes(choice))
    .map((trace) => {
      if (trace.meta && trace.meta.thin) return thinned(trace, rangeOf(name), element.clientWidth);
      return trace.x && !Array.isArray(trace.x) ? { ...trace, x: moments(trace.x) } : trace;
    })
    .map((trace) => colours(trace, style));
  // On a narrow screen a legend takes a line for each entry: the plot grows by them.
  const entries = traces.filter((trace) => trace.showlegend !== false).length;
  const height = figure.height + (element.clientWidth < 560 ? 16 * entries : 0);
  element.style.height = `${height}px`;
  const layout = themed(figure.layout, style, element, height);
  // Another choice has other prices: the zoom of the one before would show nothing of it.
  layout.uirevision = `kept-${choice}`;
  if (page.ranges[name] && layout.xaxis) layout.xaxis = { ...layout.xaxis, range: page.ranges[name], autorange: false };
  const config = {
    responsive: true,
    displaylogo: false,
    // Over a small plot they would hide it, and a finger has the buttons above.
    displayModeBar: isCoarse() ? false : "hover",
    // These alone: others would send something somewhere.
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const isNew = !element.classList.contains("js-plotly-plot");
  await Plotly.react(element, traces, layout, config);
  if (isNew) {
    element.on("plotly_relayout", (change) => onRelayout(name, change));
    for (const link of element.querySelectorAll(".modebar a, .modebar button")) link.tabIndex = -1;
  }
}

function onRelayout(name, change) {
  const figure = page.figures[name];
  const before = JSON.stringify(page.ranges[name] || null);
  if ("xaxis.range[0]" in change) page.ranges[name] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
  else if ("xaxis.range" in change) page.ranges[name] = change["xaxis.range"];
  else if (change["xaxis.autorange"]) delete page.ranges[name];
  const isThin = figure.traces.some((trace) => trace.meta && trace.meta.thin);
  if (isThin && JSON.stringify(page.ranges[name] || null) !== before) draw(name);
}

function move(name, how) {
  const element = document.getElementById(name);
  if (!element.layout) return;
  if (how === "all") {
    delete page.ranges[name];
    draw(name).then(() => Plotly.relayout(element, { "xaxis.autorange": true, "yaxis.autorange": true }));
    return;
  }
  const axis = element._fullLayout.xaxis;
  const [begin, end] = axis.range.map((each) => axis.r2l(each));
  const length = end - begin;
  const [from, to] = {
    back: [begin - length / 2, end - length / 2],
    forth: [begin + length / 2, end + length / 2],
    in: [begin + length / 4, end - length / 4],
    out: [begin - length / 2, end + length / 2],
  }[how];
  Plotly.relayout(element, { "xaxis.range": [axis.l2r(from), axis.l2r(to)] });
}

// Tables: a button in every heading sorts by its column, the same one again the other way round.
function sortTable(heading, direction) {
  const table = heading.closest("table");
  const column = [...heading.parentElement.children].indexOf(heading);
  for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const key = (row) => {
    const cell = row.children[column];
    return "sort" in cell.dataset ? number(cell.dataset.sort) : cell.textContent;
  };
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  const order = ([a], [b]) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  rows.sort((a, b) => sign * order(a, b));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function number(text) {
  return text === "-inf" ? -Infinity : text === "inf" ? Infinity : Number.isNaN(Number(text)) ? text : Number(text);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.move) move(button.dataset.plot, button.dataset.move);
  if (!button.classList.contains("sort")) return;
  const heading = button.closest("th");
  sortTable(heading, heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
});

document.addEventListener("change", (event) => {
  const name = event.target.dataset && event.target.dataset.plot;
  if (!name) return;
  delete page.ranges[name];
  draw(name);
});

async function drawAll() {
  for (const name of Object.keys(page.figures)) {
    await draw(name);
    await new Promise((resume) => setTimeout(resume)); // the page stays responsive meanwhile
  }
}

async function start() {
  const trouble = document.getElementById("trouble");
  try {
    if (!("DecompressionStream" in window)) throw new Error("they need a browser of 2023 or newer");
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly-packed");
    document.head.append(script);
    page.figures = JSON.parse(await unpacked("data-packed"));
    await drawAll();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  } catch (error) {
    trouble.hidden = false;
    trouble.textContent = `The plots cannot be drawn (${error.message}); the tables below are complete.`;
    throw error;
  } finally {
    document.documentElement.dataset.state = "drawn";
  }
}

const started = start();

/* ---- charts.js: curves with bands, by Chart.js --------------------------------------------------------------- */

const haveCharts = 'Chart' in window; /* else this mhmoe was built without, and figures are told in words */

const drawn = new Set(); /* what is drawn again when the theme changes */

const faint = (hex, share) => hex + Math.round(255 * share).toString(16).padStart(2, '0');

/* A band is two lines without a stroke, filled in between; a line with its two edges are three datasets. A point by
   itself is no line and has a dot. */
function datasetsOf(series, dots) {
  const radius = dots || series.points.length === 1 ? 2 : 0;
  const line = color(series.color), edge = {borderWidth: 0, pointRadius: 0, pointHitRadius: 0, edge: true};
  return [
    {...edge, data: series.points.map(p => ({x: p.x, y: p.low})), fill: false},
    {...edge, data: series.points.map(p => ({x: p.x, y: p.high})), fill: '-1', backgroundColor: faint(line, 0.18)},
    {label: series.name, data: series.points, borderColor: line, backgroundColor: line, borderWidth: 2,
     borderDash: series.dash, borderJoinStyle: 'round', pointRadius: ({raw}) => raw?.between ? 0 : radius,
     pointHoverRadius: 4, fill: false},
  ];
}

/* A logarithmic one names powers of ten alone: there is room for no more. */
function scale(title, {logarithmic, ...extra} = {}) {
  const name = value => logarithmic && !Number.isInteger(Math.log10(value)) ? null : short(value);
  return {
    type: logarithmic ? 'logarithmic' : 'linear',
    title: {display: Boolean(title), text: title, color: color('muted')},
    grid: {color: color('line'), borderColor: color('line'), tickLength: 4},
    ticks: {color: color('muted'), callback: name, maxRotation: 0, autoSkipPadding: 12},
    ...extra,
  };
}

function configuration(spec) {
  return {
    type: 'line',
    data: {datasets: spec.series.flatMap(one => datasetsOf(one, spec.dots))},
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      parsing: false,
      interaction: {mode: 'nearest', axis: 'x', intersect: false},
      scales: {x: scale(spec.x, {min: spec.from, logarithmic: spec.logarithmic}), y: scale('', spec.y)},
      plugins: {
        legend: {display: false},
        tooltip: {
          filter: item => !item.dataset.edge && !item.raw.between,
          callbacks: {
            title: items => items.length ? `${short(items[0].parsed.x)} ${spec.x}` : '',
            label: item => {
              const {y, low, high} = item.raw;
              const range = high > low ? ` (${Number(low.toPrecision(4))} to ${Number(high.toPrecision(4))})` : '';
              return ` ${item.dataset.label}: ${Number(y.toPrecision(4))}${range}`;
            },
          },
        },
      },
    },
  };
}

/* The chart for those who do not see it. */
function describe(spec) {
  const lines = spec.series.map(({name, points}) =>
    `${name} from ${Number(points[0].y.toPrecision(4))} to ${Number(points.at(-1).y.toPrecision(4))}`);
  return `${spec.title} against ${spec.x}: ${lines.join('; ')}.`;
}

/* A line as a legend shows it: {color, dash}. */
function swatch(line) {
  const kind = ['solid', 'dashed', 'dotted'][dashes.indexOf(line.dash)];
  return el('span', {class: 'swatch', style: `border-top: 3px ${kind} var(--${line.color})`, 'aria-hidden': 'true'});
}

/* A figure whose content `make` describes anew each time it is drawn: {title, x: its title, y: options, from: the least
   x, logarithmic, dots, legend, series: [{name, color, dash, points: [{x, y, low, high}]}]}. */
function figure(make) {
  const title = el('h3'), note = el('p', {class: 'muted'}, 'There is nothing to show.');
  const canvas = el('canvas', {role: 'img'});
  const box = haveCharts ? el('div', {class: 'chart'}, canvas) : el('p'), names = el('div', {class: 'legend'});
  const whole = el('figure', {}, title, box, names, note);
  let chart = null;
  const draw = () => {
    const spec = make();
    spec.series = spec.series.filter(series => series.points.length);
    title.textContent = spec.title;
    names.replaceChildren(...(spec.legend ? spec.series : []).map(one =>
      el('span', {class: 'name'}, swatch(one), one.name)));
    box.hidden = spec.series.length === 0;
    note.hidden = spec.series.length > 0;
    chart?.destroy();
    chart = null;
    if (box.hidden) return;
    canvas.setAttribute('aria-label', describe(spec));
    if (haveCharts) chart = new Chart(canvas, configuration(spec));
    else box.textContent = describe(spec);
  };
  drawn.add(draw);
  return {element: whole, draw};
}

/* ---- charts.js: curves with bands, by Chart.js --------------------------------------------------------------- */

const drawn = new Set(); /* what is drawn again when the theme changes */

const axes = {
  updates: {key: 'step', title: 'updates'},
  tokens: {key: 'tokens', title: 'tokens'},
  FLOPs: {key: 'flops', title: 'training FLOPs'},
  seconds: {key: 'seconds', title: 'seconds of training'},
};

const faint = (hex, share) => hex + Math.round(255 * share).toString(16).padStart(2, '0');

/* A band is two lines without a stroke, filled in between; a line with its two edges are three datasets. */
function datasetsOf(series) {
  const line = color(series.color), edge = {borderWidth: 0, pointRadius: 0, pointHitRadius: 0, edge: true};
  const few = series.points.length < 16;
  return [
    {...edge, data: series.points.map(p => ({x: p.x, y: p.low})), fill: false},
    {...edge, data: series.points.map(p => ({x: p.x, y: p.high})), fill: '-1', backgroundColor: faint(line, 0.18)},
    {label: series.name, data: series.points, borderColor: line, backgroundColor: line, borderWidth: 2,
     borderDash: series.dash, borderJoinStyle: 'round', pointRadius: few ? 2 : 0, pointHoverRadius: 4, fill: false},
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
    data: {datasets: spec.series.flatMap(datasetsOf)},
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
          filter: item => !item.dataset.edge,
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

/* A figure whose content `make` describes anew each time it is drawn: {title, x, series: [{name, color, points}]}.
   Without a point to show it says so instead. */
function figure(make) {
  const title = el('h3'), note = el('p', {class: 'muted', hidden: true}), canvas = el('canvas', {role: 'img'});
  const box = el('div', {class: 'chart'}, canvas), names = el('div', {class: 'legend'});
  const whole = el('figure', {}, title, box, names, note);
  let chart = null;
  const draw = () => {
    const spec = make();
    spec.series = spec.series.filter(series => series.points.length);
    title.textContent = spec.title;
    names.replaceChildren(...(spec.legend ? spec.series : []).map(one => el('span', {class: 'name'}, swatch(one), one.name)));
    box.hidden = spec.series.length === 0;
    note.hidden = spec.series.length > 0;
    note.textContent = spec.empty ?? 'Nothing is logged of this yet.';
    chart?.destroy();
    chart = null;
    if (box.hidden) return;
    canvas.setAttribute('aria-label', describe(spec));
    chart = new Chart(canvas, configuration(spec));
  };
  drawn.add(draw);
  return {element: whole, draw};
}

const hiddenGroups = new Set();

function groupSeries(part, along, measure) {
  return groups.filter(group => !hiddenGroups.has(group)).map(group =>
    ({name: group.name, color: group.color, dash: group.dash, points: curve(group, part, along, measure)}));
}

/* One legend for all curves; a group is put away and back by its name. */
function legend(redraw) {
  if (groups.length < 2) return null;
  return el('div', {class: 'legend', role: 'group', 'aria-label': 'Models shown'}, ...groups.map(group => {
    const button = el('button', {type: 'button', 'aria-pressed': 'true', onclick: () => {
      const hide = !hiddenGroups.has(group);
      hide ? hiddenGroups.add(group) : hiddenGroups.delete(group);
      button.setAttribute('aria-pressed', String(!hide));
      redraw();
    }}, swatch(group), group.name);
    return button;
  }));
}

function swatch(group) {
  const kind = ['solid', 'dashed', 'dotted'][dashes.indexOf(group.dash)];
  return el('span', {class: 'swatch', style: `border-top: 3px ${kind} var(--${group.color})`, 'aria-hidden': 'true'});
}

function curvesSection() {
  const state = {axis: 'updates', measure: 'loss', part: 'whole run'};
  const shares = {'whole run': 0, 'last half': 0.5, 'last quarter': 0.75};
  const make = (title, part, measure, extra = {}) => figure(() => {
    const axis = axes[state.axis];
    const name = typeof measure === 'function' ? measure() : measure;
    const series = groupSeries(part, axis.key, name);
    const end = Math.max(0, ...series.flatMap(({points}) => points.map(point => point.x)));
    const from = shares[state.part] * end;
    for (const one of series) one.points = one.points.filter(point => point.x >= from);
    return {title: typeof title === 'function' ? title() : title, x: axis.title, from: from || undefined, series, ...extra};
  });
  const loss = () => state.measure === 'loss' ? 'loss' : 'perplexity';
  const unit = () => state.measure === 'loss' ? 'loss, nats a token' : 'perplexity';
  const large = [make(() => `Validation ${unit()}`, 'valid', loss), make(() => `Training ${unit()}`, 'train', loss)];
  const small = [
    make('Norm of the gradient', 'train', 'grad_norm'),
    make('Balance loss, sum over layers', 'train', 'balance'),
    make('Tokens a second', 'train', 'speed', {y: {beginAtZero: true}}),
    make('Learning rate', 'train', 'rate', {y: {beginAtZero: true}}),
  ];
  const redraw = () => [...large, ...small].forEach(one => one.draw());
  const set = key => value => {
    state[key] = value;
    redraw();
  };
  const manySeeds = groups.some(group => group.runs.length > 1);
  return section('curves', 'Curves',
    el('div', {class: 'controls'},
      chooser('Against', Object.keys(axes), state.axis, set('axis')),
      chooser('Measure', ['loss', 'perplexity'], state.measure, set('measure')),
      chooser('Show', Object.keys(shares), state.part, set('part'))),
    legend(redraw),
    el('div', {class: 'grid large'}, ...large.map(one => one.element)),
    manySeeds ? el('p', {class: 'muted'}, 'Lines are means over seeds, bands reach from the lowest seed to the highest.') : null,
    el('div', {class: 'grid small'}, ...small.map(one => one.element)));
}

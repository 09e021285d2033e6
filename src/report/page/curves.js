/* ---- curves.js: all runs against updates, tokens, FLOPs and seconds ------------------------------------------ */

const axes = {
  updates: {key: 'step', title: 'updates'},
  tokens: {key: 'tokens', title: 'tokens'},
  FLOPs: {key: 'flops', title: 'training FLOPs'},
  seconds: {key: 'seconds', title: 'seconds of training'},
};

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

/* The points from x on. The line that comes in there has a point at the edge, which is between two measured ones. */
function pointsFrom(points, x) {
  const first = points.findIndex(point => point.x >= x);
  if (first <= 0) return first < 0 ? [] : points;
  const [a, b] = points.slice(first - 1), share = (x - a.x) / (b.x - a.x);
  const at = key => a[key] + share * (b[key] - a[key]);
  return [{x, y: at('y'), low: at('low'), high: at('high'), between: true}, ...points.slice(first)];
}

function curvesSection() {
  const state = {axis: 'updates', measure: 'loss', part: 'whole run'};
  const shares = {'whole run': 0, 'last half': 0.5, 'last quarter': 0.75};
  const make = (title, part, measure, extra = {}) => figure(() => {
    const axis = axes[state.axis];
    const series = groupSeries(part, axis.key, typeof measure === 'function' ? measure() : measure);
    const end = Math.max(0, ...series.flatMap(({points}) => points.map(point => point.x)));
    const from = shares[state.part] * end;
    for (const one of series) one.points = pointsFrom(one.points, from);
    const name = typeof title === 'function' ? title() : title;
    return {title: name, x: axis.title, from, series, ...extra};
  });
  const ifAny = (title, measure) =>
    report.runs.some(run => run.train.some(point => known(point[measure]))) ? [make(title, 'train', measure)] : [];
  const loss = () => state.measure === 'loss' ? 'loss' : 'perplexity';
  const unit = () => state.measure === 'loss' ? 'loss, nats a token' : 'perplexity';
  const large = [
    make(() => `Validation ${unit()}`, 'valid', loss, {dots: true}),
    make(() => `Training ${unit()}`, 'train', loss),
  ];
  const small = [
    make('Norm of the gradient', 'train', 'grad_norm'),
    ...ifAny('Balance loss, sum over layers', 'balance'),
    ...ifAny('z-loss, sum over layers', 'z_loss'),
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
    manySeeds
      ? el('p', {class: 'muted'}, 'Lines are means over seeds, bands reach from the lowest seed to the highest.') : null,
    el('div', {class: 'grid small'}, ...small.map(one => one.element)));
}

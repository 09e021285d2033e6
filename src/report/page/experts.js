/* ---- experts.js: how evenly the experts of a run are loaded, over time --------------------------------------- */

/* Blue where an expert has less than its even share, orange where it has more, in powers of two from a quarter to
   four times of it: two colours that everybody can tell apart, from the page's background at "even". */
function shade(share, even) {
  const octaves = Math.max(-2, Math.min(2, Math.log2(Math.max(share, 1e-9) / even)));
  const end = color(octaves < 0 ? 'starved' : 'crowded'), middle = color('even');
  const at = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  const weight = Math.abs(octaves) / 2;
  return `rgb(${[0, 1, 2].map(i => Math.round(at(middle, i) + weight * (at(end, i) - at(middle, i)))).join(' ')})`;
}

function shadeKey(what) {
  const steps = [0.25, 0.35, 0.5, 0.71, 1, 1.41, 2, 2.83, 4];
  const cells = el('span', {class: 'cells', 'aria-hidden': 'true'});
  const draw = () => cells.replaceChildren(...steps.map(step => el('span', {style: `background: ${shade(step, 1)}`})));
  drawn.add(draw);
  return el('p', {class: 'key muted'}, what,
    el('span', {}, 'A quarter of an even share or less'), cells, el('span', {}, 'four times of it or more'));
}

/* A canvas with a pixel a value: colorOf(x, y), and say(x, y) to the pointer. */
function pixels(width, height, label, colorOf, say) {
  const canvas = el('canvas', {class: 'heat', role: 'img', 'aria-label': label, width, height});
  drawn.add(() => {
    const context = canvas.getContext('2d');
    for (let x = 0; x < width; x++)
      for (let y = 0; y < height; y++) {
        context.fillStyle = colorOf(x, y);
        context.fillRect(x, y, 1, 1);
      }
  });
  canvas.addEventListener('pointermove', event => {
    const box = canvas.getBoundingClientRect();
    const at = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
    const x = at((event.clientX - box.left) / box.width, width), y = at((event.clientY - box.top) / box.height, height);
    showTip(event, say(x, y));
  });
  canvas.addEventListener('pointerleave', hideTip);
  return canvas;
}

/* columns: [{step, shares: [of each expert]}], from left to right. */
function heatMap(name, columns) {
  const experts = columns[0].shares.length, even = 1 / experts;
  const row = Math.max(3, Math.min(12, Math.floor(320 / experts)));
  const last = columns.at(-1).shares, highest = last.indexOf(Math.max(...last));
  const canvas = pixels(columns.length, experts,
    `${name}: share of ${experts} experts over time. At update ${columns.at(-1).step} the largest is ` +
      `${percent(last[highest])} (expert ${highest}), an even one ${percent(even)}; ` +
      `${last.filter(share => share < even / 4).length} experts have less than a quarter of that.`,
    (x, y) => shade(columns[x].shares[y], even),
    (x, y) => `update ${columns[x].step}, expert ${y}: ${percent(columns[x].shares[y])} of the rows, ` +
      `${fixed(columns[x].shares[y] / even, 2)} times an even share`);
  canvas.style.height = `${row * experts}px`;
  const scaleMark = expert => el('span', {style: `top: ${expert * row}px`}, String(expert));
  return el('figure', {}, el('h3', {}, name),
    el('div', {class: 'heat-frame'},
      el('div', {class: 'heat-rows muted', 'aria-hidden': 'true'}, scaleMark(0), scaleMark(experts - 1)),
      canvas,
      el('div', {class: 'heat-columns muted', 'aria-hidden': 'true'},
        el('span', {}, `update ${whole(columns[0].step)}`), el('span', {}, whole(columns.at(-1).step)))));
}

/* Of each layer of a run: {columns: for the heat map, points: for the curves}. */
function loadsOf(run) {
  const layers = new Map();
  for (const {step, layers: found} of run.experts)
    for (const one of found) {
      if (!layers.has(one.layer)) layers.set(one.layer, {columns: [], points: []});
      const layer = layers.get(one.layer), total = one.rows.reduce((sum, rows) => sum + rows, 0);
      layer.points.push({x: step, entropy: one.entropy, largest: one.largest, dropped: one.dropped});
      /* another number of experts than before is damage */
      if (total > 0 && (!layer.columns.length || layer.columns[0].shares.length === one.rows.length))
        layer.columns.push({step, shares: one.rows.map(rows => rows / total)});
    }
  return layers;
}

function layerCurves(layers, title, measure, extra) {
  return figure(() => ({title, x: 'updates', ...extra, series: [...layers.entries()].map(([layer, {points}], i) => ({
    name: `layer ${layer}`,
    color: `series-${i % 7}`,
    dash: dashes[Math.floor(i / 7) % 3],
    points: points.filter(point => known(point[measure])).map(({x, ...values}) =>
      ({x, y: values[measure], low: values[measure], high: values[measure]})),
  }))}));
}

function runLoads(run) {
  const layers = loadsOf(run), maps = [...layers.entries()].filter(([, {columns}]) => columns.length > 1);
  const charts = [
    layerCurves(layers, 'Entropy of the load (1: even)', 'entropy', {y: {max: 1}}),
    layerCurves(layers, 'Largest share', 'largest', {y: {beginAtZero: true}}),
  ];
  if ([...layers.values()].some(({points}) => points.some(point => point.dropped > 0)))
    charts.push(layerCurves(layers, 'Share dropped for capacity', 'dropped', {y: {beginAtZero: true}}));
  const colors = [...layers.keys()].map((layer, i) => el('span', {class: 'name'},
    swatch({color: `series-${i % 7}`, dash: dashes[Math.floor(i / 7) % 3]}), `layer ${layer}`));
  return [
    maps.length
      ? shadeKey('Each row is an expert, each column a moment of training.')
      : el('p', {class: 'muted'}, 'An earlier version wrote this log, without the rows of each expert.'),
    el('div', {class: 'grid large'}, ...maps.map(([layer, {columns}]) => heatMap(`Load of layer ${layer}`, columns))),
    el('div', {class: 'legend'}, ...colors),
    el('div', {class: 'grid small'}, ...charts.map(chart => chart.element)),
  ];
}

function expertsSection() {
  const runs = report.runs.filter(run => run.experts.length > 0);
  if (!runs.length) return null;
  return section('experts', 'Experts', ...stage('Run', runs.map(run => run.name), i => runLoads(runs[i])));
}

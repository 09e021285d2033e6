/* ---- routing.js: what `mhmoe analyse` counted ---------------------------------------------------------------- */

const analysis = report.analysis ?? {};

/* A coloured cell that says its value to the pointer, and to a screen reader. */
function cell(value, even, text) {
  const content = el('span', {class: 'hidden'}, text), box = el('td', {class: 'cell'}, content);
  drawn.add(() => { box.style.background = shade(value, even); });
  box.addEventListener('pointermove', event => showTip(event, text));
  box.addEventListener('pointerleave', hideTip);
  return box;
}

/* Rows and columns of shares as a table: rows [{name, shares}], and words for the share of a row's column. */
function heatTable(caption, rows, even, say) {
  const count = rows[0].shares.length, marks = count > 20 ? 8 : 1;
  const head = el('tr', {}, el('td'), ...rows[0].shares.map((_, i) =>
    el('th', {scope: 'col'}, el('span', {class: i % marks ? 'hidden' : null}, String(i)))));
  return el('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption},
    el('table', {class: 'cells-table'}, el('caption', {class: 'hidden'}, caption), el('thead', {}, head),
      el('tbody', {}, ...rows.map(row => el('tr', {}, el('th', {scope: 'row'}, row.name),
        ...row.shares.map((share, i) => cell(share, even, say(row, i, share))))))));
}

function headLoads(layers) {
  const rows = layers.flatMap(layer => list(layer.load).map((shares, head) =>
    ({name: `layer ${layer.layer}, head ${head}`, shares: list(shares)}))).filter(row => row.shares.length);
  if (!rows.length) return [];
  const most = Math.max(...rows.map(row => row.shares.length));
  return [
    el('h3', {}, 'Which experts each head uses'),
    heatTable('Load of each expert by layer and head', rows.filter(row => row.shares.length === most), 1 / most,
      (row, expert, share) =>
        `${row.name}, expert ${expert}: ${percent(share)} of its choices, ${fixed(share * most, 2)} times an even share`),
    shadeKey('A row is a head, a column an expert.'),
  ];
}

function activationCurves(layer) {
  const along = list(layer.activation?.curve).filter(point => point.threshold > 0);
  const line = (name, key, i) => ({name, color: `series-${i}`, dash: dashes[0],
    points: along.filter(point => known(point[key])).map(point =>
      ({x: point.threshold, y: point[key], low: point[key], high: point[key]}))});
  return figure(() => ({
    title: 'Share of experts in use',
    x: 'used more often than', logarithmic: true, legend: true, dots: true, y: {min: 0, max: 1},
    series: [line('by tokens', 'ratio', 0), line('by choices', 'corrected', 1)],
  })).element;
}

/* How often two experts work on the same token, against chance. */
function coactivation(layer) {
  const lift = list(layer.coactivation_lift).map(list);
  if (lift.length < 2) return null;
  const canvas = pixels(lift.length, lift.length,
    `How often each two of ${lift.length} experts work on the same token, against chance`,
    (a, b) => a === b ? color('line') : shade(lift[a][b], 1),
    (a, b) => a === b ? `expert ${a}` : `experts ${a} and ${b} meet ${fixed(lift[a][b], 2)} times as often as chance`);
  canvas.classList.add('square');
  return el('figure', {}, el('h3', {}, 'Experts that work together'), canvas,
    el('p', {class: 'muted'}, 'Both ways are experts; orange: more often on one token than chance, blue: less.'));
}

function distinctBars(layer) {
  const shares = list(layer.distinct?.histogram), most = Math.max(...shares, 1e-9);
  if (!shares.length) return null;
  const rows = shares.map((share, i) => el('tr', {}, el('th', {scope: 'row'}, String(i + 1)),
    el('td', {}, el('span', {class: 'bar', style: `width: ${Math.max(0, 100 * share / most)}%`})),
    el('td', {class: 'number'}, percent(share))));
  const caption = 'Share of tokens by the number of experts they reach';
  return el('figure', {}, el('h3', {}, 'Experts that a token reaches'),
    el('table', {class: 'bars'}, el('caption', {class: 'hidden'}, caption), el('tbody', {}, ...rows)),
    el('p', {class: 'muted'}, `${fixed(layer.distinct.mean, 2)} on average.`));
}

function changes(layer, at) {
  const points = list(analysis.checkpoints).filter(one => known(one.step) && known(list(one.changed)[at])).map(one =>
    ({x: one.step, y: one.changed[at], low: one.changed[at], high: one.changed[at]}));
  return points.length < 2 ? null : figure(() => ({title: 'Choices still to change', x: 'updates', dots: true,
    y: {min: 0}, series: [{name: `layer ${layer.layer}`, color: 'series-0', dash: dashes[0], points}]})).element;
}

/* A token as it may stand in a line: blanks can be seen. */
const visible = text => String(text).replace(/ /g, '␣').replace(/\n/g, '⏎').replace(/\t/g, '⇥');

function expertTable(layer) {
  const experts = list(layer.experts), loads = list(layer.load).map(list);
  if (!experts.length) return null;
  const share = e => mean(loads.map(head => head[e] ?? NaN));
  const labelled = experts.some(expert => list(expert.labels).length);
  const columns = [{name: 'Expert'}, {name: 'Load'}, {name: 'Tokens it takes most for their number', number: false},
    ...(labelled ? [{name: 'Kinds of text', number: false}] : [])];
  return el('details', {},
    el('summary', {}, `What each of the ${experts.length} experts of layer ${layer.layer} takes`),
    table(`Experts of layer ${layer.layer}`, columns, experts.map((expert, e) => [
      String(e), percent(share(e)),
      el('span', {class: 'pieces'}, ...list(expert.tokens).slice(0, 8).map(token =>
        el('code', {title: `${fixed(token.lift, 1)} times chance, ${whole(token.count)} times`}, visible(token.text)))),
      ...(labelled
        ? [list(expert.labels).slice(0, 3).map(one => `${one.label} ${fixed(one.lift, 2)}×`).join(', ')] : []),
    ])));
}

function layerRouting(layer, at) {
  const {activation, repeats} = layer;
  const facts = [
    `Entropy of the load ${fixed(layer.entropy, 3)} (1 is even).`,
    activation ? `Of its experts, ${percent(activation.ratio, 0)} are chosen by more than ` +
      `${percent(activation.threshold, 2)} of the tokens; corrected for the number of choices, ` +
      `${percent(activation.corrected, 0)}.` : '',
    repeats?.tokens > 0 ? `When a token comes again, ${percent(repeats.changed, 0)} of its choices are others.` : '',
  ];
  const figures = [activationCurves(layer), coactivation(layer), distinctBars(layer), changes(layer, at)];
  return [
    el('p', {}, facts.filter(Boolean).join(' ')),
    el('div', {class: 'grid medium'}, ...figures),
    expertTable(layer),
  ];
}

function routingSection() {
  const layers = list(analysis.layers);
  if (!layers.length) return null;
  return section('routing', 'Routing of text',
    el('p', {class: 'muted'}, `${whole(analysis.tokens)} tokens through ${analysis.checkpoint}.`),
    ...headLoads(layers),
    ...stage('Layer', layers.map(layer => `layer ${layer.layer}`), i => layerRouting(layers[i], i)));
}

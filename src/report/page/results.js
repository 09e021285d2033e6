/* ---- results.js: what came out ------------------------------------------------------------------------------- */

/* Each seed as a dot on an axis that all rows share, and their mean as a line. */
function strip(group, low, high) {
  const width = 120, at = value => 6 + (width - 12) * (high > low ? (value - low) / (high - low) : 0.5);
  const svg = (tag, attributes) => {
    const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const picture = svg('svg', {viewBox: `0 0 ${width} 16`, width, height: 16, 'aria-hidden': 'true'});
  picture.append(svg('line', {x1: 0, x2: width, y1: 8, y2: 8, stroke: 'var(--line)'}));
  for (const value of group.perplexities)
    picture.append(svg('circle', {cx: at(value), cy: 8, r: 4, fill: `var(--${group.color})`, 'fill-opacity': 0.55}));
  const middle = at(mean(group.perplexities));
  if (group.perplexities.length > 1)
    picture.append(svg('line', {x1: middle, x2: middle, y1: 1, y2: 15, stroke: 'var(--text)', 'stroke-width': 1.5}));
  return picture;
}

function progressOf(run) {
  return run.step >= run.steps ? whole(run.step) : `${whole(run.step)} of ${whole(run.steps)}`;
}

const over = (group, measure) => {
  const values = group.runs.map(measure).filter(known);
  return values.length ? mean(values) : NaN;
};

function resultRow(group, low, high) {
  const run = group.runs[0], values = group.perplexities, error = standardError(values);
  return [
    el('span', {class: 'name'}, swatch(group), group.name),
    String(group.runs.length),
    [...new Set(group.runs.map(progressOf))].join(', '),
    el('strong', {}, values.length ? perplexity(mean(values)) + (known(error) ? ` ± ${perplexity(error)}` : '') : '–'),
    ...(low < high ? [values.length ? strip(group, low, high) : ''] : []),
    fixed(over(group, one => one.last?.bits_per_byte), 4),
    short(run.parameters),
    short(run.active),
    short(run.training_flops),
    short(over(group, one => one.speed)),
    bytes(over(group, one => one.memory)),
    duration(over(group, one => one.seconds)),
    whole(over(group, one => one.core_seconds)),
  ];
}

function resultsTable() {
  for (const group of groups) group.perplexities = group.runs.map(run => run.last?.perplexity).filter(known);
  const all = groups.flatMap(group => group.perplexities);
  const low = Math.min(...all), high = Math.max(...all);
  const columns = [
    {name: 'Model'},
    {name: 'Seeds'},
    {name: 'Updates'},
    {name: 'Validation perplexity', help: 'of the last evaluation; mean and standard error over seeds'},
    ...(low < high ? [{name: 'Seed by seed', number: false, help: 'each dot a seed, the line their mean'}] : []),
    {name: 'Bits a byte', help: 'of validation text'},
    {name: 'Parameters'},
    {name: 'Active', help: 'parameters that work on one token'},
    {name: 'Training FLOPs a token', help: 'forward and backward'},
    {name: 'Tokens a second', help: 'median over the run'},
    {name: 'Peak memory'},
    {name: 'Time', help: 'of the updates alone: evaluations and checkpoints are left out'},
    {name: 'Core-seconds', help: 'that time, times the threads'},
  ];
  const spread = groups.some(group => group.runs.length > 1) ? ' ± is the standard error over seeds.' : '';
  const range = low < high ? ` Dots: ${perplexity(low)} at the left, ${perplexity(high)} at the right.` : '';
  return [
    table('Models and what they reached', columns, groups.map(group => resultRow(group, low, high))),
    el('p', {class: 'muted'}, 'Perplexity is of the last evaluation; time and tokens a second leave evaluations and ' +
      `checkpoints out.${spread}${range}`),
  ];
}

/* The little of Markdown that sentences have: paragraphs, "- " lists, **bold** and `code`. */
function markdown(text) {
  const inline = line => line.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map(part =>
    part.startsWith('**') && part.length > 4 ? el('strong', {}, part.slice(2, -2))
      : part.startsWith('`') && part.length > 2 ? el('code', {}, part.slice(1, -1)) : part);
  return text.split(/\n\s*\n/).filter(block => block.trim()).map(block => {
    const lines = block.trim().split('\n');
    if (lines.every(line => /^[-*] /.test(line)))
      return el('ul', {}, ...lines.map(line => el('li', {}, ...inline(line.slice(2)))));
    return el('p', {}, ...inline(lines.join(' ').replace(/^#+ /, '')));
  });
}

function comparison({path, table: wide, text}) {
  const columns = list(wide?.columns).map(name => ({name: String(name)}));
  const cell = value => value == null ? '–' : known(value) ? String(Number(value.toPrecision(6))) : String(value);
  const rows = list(wide?.rows).map(row => columns.map((_, i) => cell(list(row)[i])));
  const sentences = typeof text === 'string' ? text : list(text).map(sentence => `- ${sentence}`).join('\n');
  return el('div', {class: 'comparison'},
    ...markdown(sentences),
    rows.length && columns.length ? table(`Comparison in ${path}`, columns, rows) : null);
}

/* Which perplexities do not stand beside the others. */
function cautions() {
  const recipeOf = group => group.runs[0].recipe, readable = groups.filter(recipeOf), first = readable[0];
  const text = group => recipeOf(group).data.valid || recipeOf(group).data.train;
  const others = readable.filter(group => text(group) !== text(first) ||
    recipeOf(group).model.vocab !== recipeOf(first).model.vocab);
  const say = (group, sentence) => el('p', {}, el('strong', {}, group.name), ` ${sentence}`);
  const told = JSON.stringify(report.comparisons);
  return [
    ...others.map(group => say(group, 'is measured on other text or in other tokens than ' +
      `${first.name}: their perplexities and losses cannot be compared.`)),
    ...groups.filter(group => group.runs[0].noncausal &&
      !told.includes(`${group.name} ${group.runs[0].noncausal}`)).map(group => say(group,
      `${group.runs[0].noncausal}, so its perplexity is not quite that of a causal model.`)),
  ];
}

function resultsSection() {
  return section('results', 'Results', ...report.comparisons.map(comparison), ...cautions(), ...resultsTable());
}

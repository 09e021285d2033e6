/* ---- data.js: runs, and groups of runs that differ in their seed --------------------------------------------- */

const report = JSON.parse(document.getElementById('data').textContent);

const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;

function standardError(values) {
  if (values.length < 2) return NaN;
  const m = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - m) ** 2, 0) / (values.length - 1) / values.length);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/* The columns of a log as points. */
function points(columns) {
  return list(columns.step).map((_, i) => {
    const point = {};
    for (const name of Object.keys(columns)) point[name] = columns[name][i];
    return point;
  });
}

/* "a-seed1", "a-seed2" -> "a", and "a/seed-1" -> "a", as a comparison names its folders. */
function commonName(names) {
  if (names.length === 1) return names[0].replace(/\/seed-\d+$/, '');
  let length = 0;
  while (names.every(name => length < name.length && name[length] === names[0][length])) length++;
  return names[0].slice(0, length).replace(/[-_. /]*(seed|s)?[-_. =]*\d*$/i, '') || names[0];
}

function speeds(run) {
  return run.train.slice(1).map((point, i) =>
    (point.tokens - run.train[i].tokens) / (point.seconds - run.train[i].seconds)).filter(known);
}

function prepare(run) {
  run.train = points(run.train);
  run.valid = points(run.valid);
  run.last = run.valid.at(-1);
  run.seed = run.recipe?.train.seed;
  for (const point of [...run.train, ...run.valid]) {
    point.flops = point.tokens * run.training_flops;
    point.perplexity = Math.exp(point.loss);
    point.balance ||= null; /* 0: there is none */
  }
  run.train.forEach((point, i) => {
    const before = run.train[i - 1] ?? {tokens: 0, seconds: 0};
    point.speed = (point.tokens - before.tokens) / (point.seconds - before.seconds);
  });
  run.speed = run.train.length ? median(speeds(run).length ? speeds(run) : [run.train[0].speed]) : NaN;
}

/* The eighth has the first one's colour again. */
const dashes = [[], [7, 4], [2, 3]];

/* Runs without a readable recipe are groups of their own. A comparison's models stay in its order. */
function makeGroups(runs) {
  const groups = new Map();
  runs.forEach((run, i) => {
    const key = run.group ?? `alone-${i}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(run);
  });
  const order = report.comparisons.flatMap(({table}) => list(table?.rows).map(row => list(row)[0]));
  const place = ({name}) => order.includes(name) ? order.indexOf(name) : order.length;
  const nameOf = members => members[0].group ? commonName(members.map(run => run.name)) : members[0].name;
  return [...groups.values()].map(members => ({runs: members, name: nameOf(members)}))
    .sort((a, b) => place(a) - place(b))
    .map((group, i) => ({...group, color: `series-${i % 7}`, dash: dashes[Math.floor(i / 7) % 3]}));
}

/* Seeds together: at each step, the mean of `measure` and its range over all runs that have come so far. */
function curve(group, part, along, measure) {
  const at = new Map(), ends = [];
  for (const run of group.runs) {
    const found = run[part].filter(point => known(point[measure]) && known(point[along]));
    ends.push(found.at(-1)?.step ?? -1);
    for (const point of found) at.set(point.step, [...at.get(point.step) ?? [], point]);
  }
  const complete = ([step, found]) => found.length >= ends.filter(end => end >= step).length;
  return [...at.entries()].filter(complete).sort((a, b) => a[0] - b[0]).map(([, found]) => {
    const values = found.map(point => point[measure]), x = mean(found.map(point => point[along]));
    return {x, y: mean(values), low: Math.min(...values), high: Math.max(...values)};
  });
}

report.runs.forEach(prepare);
const groups = makeGroups(report.runs);

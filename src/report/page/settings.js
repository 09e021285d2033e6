/* ---- settings.js: the recipes, the machines and what it cost ------------------------------------------------- */

function settingsOf(recipe) {
  const settings = new Map();
  for (const [name, rows] of Object.entries(recipe ?? {}))
    for (const [key, value] of Object.entries(rows)) settings.set(`${name}.${key}`, value);
  return settings;
}

/* What differs from the defaults; first, where there are several models, what differs between them. */
function settingsTable() {
  const usual = settingsOf(report.defaults), recipes = groups.map(group => settingsOf(group.runs[0].recipe));
  const own = new Set(['train.run', 'train.seed', 'train.data_seed']);
  const keys = [...usual.keys()].filter(key => !own.has(key) && recipes.some(recipe =>
    recipe.has(key) && recipe.get(key) !== usual.get(key)));
  const differs = key => new Set(recipes.filter(recipe => recipe.size).map(recipe => recipe.get(key))).size > 1;
  const say = value => value === undefined ? '–' : value === '' ? 'empty' : String(value);
  const row = key => [el('code', {}, key), say(usual.get(key))];
  const columns = names => ['Key', 'Default', ...names].map(name => ({name, number: false}));
  const common = keys.filter(key => !differs(key)), different = keys.filter(differs);
  const shared = recipes.find(recipe => recipe.size);
  return [
    different.length ? table('Settings in which the models differ', columns(groups.map(group => group.name)),
      different.map(key => [...row(key), ...recipes.map(recipe => say(recipe.get(key)))])) : null,
    common.length ? el('details', {open: groups.length === 1},
      el('summary', {}, groups.length > 1 ? 'What they share, other than the defaults' : 'Other than the defaults'),
      table('Settings other than the defaults', columns(['Value']),
        common.map(key => [...row(key), say(shared.get(key))]))) : null,
  ];
}

function settingsSection() {
  return section('settings', 'Recipes', ...settingsTable(),
    ...groups.filter(group => group.runs[0].yaml).map(group => el('details', {},
      el('summary', {}, `recipe.yaml of ${group.runs[0].name}`), el('pre', {tabindex: 0}, group.runs[0].yaml))));
}

function machineName(machine) {
  const threads = machine.threads === 1 ? '1 thread' : `${machine.threads} threads`;
  const processor = `${machine.processor || 'unknown processor'} (${machine.processors} processors)`;
  return `${processor}, ${threads}, ${machine.used}, mhmoe ${machine.version}`;
}

function costSection() {
  const columns = [{name: 'Run'}, {name: 'Machine', number: false}, {name: 'Seed'}, {name: 'Updates'}, {name: 'Tokens'},
    {name: 'FLOPs'}, {name: 'Peak memory'}, {name: 'Time'}, {name: 'Core-seconds'}];
  const rows = report.runs.map(run => [
    run.name,
    run.machines.map(machineName).join('; ') || 'not logged',
    run.seed ?? '–',
    progressOf(run),
    short(run.tokens),
    short(run.tokens * run.training_flops),
    bytes(run.memory),
    duration(run.seconds),
    whole(run.core_seconds),
  ]);
  const total = report.runs.map(run => run.core_seconds).filter(known).reduce((sum, value) => sum + value, 0);
  return section('cost', 'Machine and cost', table('Machine and cost of each run', columns, rows),
    total > 0 ? el('p', {class: 'muted'}, `${whole(total)} core-seconds in all: seconds of updates times threads, ` +
      'evaluations and checkpoints left out.') : null);
}

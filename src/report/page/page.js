/* ---- page.js: the sections, the theme ------------------------------------------------------------------------ */

function section(id, title, ...content) {
  return el('section', {id, 'aria-labelledby': `${id}-title`}, el('h2', {id: `${id}-title`}, title), ...content);
}

function problemsSection() {
  const problems = [...report.problems, ...report.runs.flatMap(run => run.problems)];
  if (!problems.length) return null;
  return section('problems', 'What could not be read', el('ul', {class: 'problem'},
    ...problems.map(problem => el('li', {}, problem))));
}

/* One section that fails leaves the others to be read. */
function tried(make) {
  try {
    return make();
  } catch (error) {
    reportError(error);
    return section(make.name, 'A part that cannot be shown',
      el('p', {class: 'problem'}, `${make.name}: ${error.message}`));
  }
}

function subtitle() {
  const many = (count, what) => `${count} ${what}${count === 1 ? '' : 's'}`;
  const running = report.runs.filter(run => run.step < run.steps).length;
  return [
    groups.length > 1 && many(groups.length, 'model'),
    report.runs.length > groups.length && many(report.runs.length, 'run'),
    running > 0 && (report.runs.length === 1 ? 'not finished' : `${running} not finished`),
    report.written,
  ].filter(Boolean).join(' · ');
}

/* The system's choice, until the button is pressed. */
function startTheme() {
  const root = document.documentElement, button = document.getElementById('theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const set = theme => {
    root.dataset.theme = theme;
    button.setAttribute('aria-pressed', String(theme === 'dark'));
    drawn.forEach(draw => draw());
  };
  let chosen = null;
  const now = () => chosen ?? (system.matches ? 'dark' : 'light');
  button.addEventListener('click', () => set(chosen = now() === 'dark' ? 'light' : 'dark'));
  system.addEventListener('change', () => set(now()));
  addEventListener('beforeprint', () => set('light'));
  addEventListener('afterprint', () => set(now()));
  set(now());
}

function start() {
  const title = report.comparisons.length === 1 ? report.comparisons[0].path.split('/').filter(Boolean).at(-1)
    : groups.length <= 4 ? groups.map(group => group.name).join(', ') : `${groups.length} models`;
  document.title = `${title} – mhmoe report`;
  document.getElementById('title').textContent = title;
  document.getElementById('subtitle').textContent = subtitle();
  document.getElementById('colophon').textContent =
    `Written by mhmoe ${report.version} on ${report.written}. This file needs no network.` +
    (haveCharts ? '' : ' It was built without Chart.js: its figures are told in words.');
  if (haveCharts) {
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    Chart.defaults.font.size = 12;
  }
  startTheme();
  const sections = [problemsSection, resultsSection, curvesSection, expertsSection, routingSection, tokensSection,
    wordsSection, settingsSection, costSection].map(tried).filter(Boolean);
  document.getElementById('main').append(...sections);
  document.getElementById('sections').append(...sections.map(one =>
    el('a', {href: `#${one.id}`}, one.querySelector('h2').textContent)));
  drawn.forEach(draw => draw());
}

start();

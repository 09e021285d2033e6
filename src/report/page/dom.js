/* ---- dom.js: elements, and numbers as people read them ------------------------------------------------------- */

/* el('td', {class: 'number'}, 'text', otherElement): text stays text, whatever is in it. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child != null));
  return element;
}

const known = value => typeof value === 'number' && Number.isFinite(value);
const list = value => Array.isArray(value) ? value : [];

/* Three significant digits, and a unit where the number is large. */
function short(value) {
  if (!known(value)) return '–';
  const units = ['', 'k', 'M', 'G', 'T', 'P', 'E'];
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  if (value !== 0 && Math.abs(value) < 1e-5) return value.toExponential(1);
  return `${Number(value.toPrecision(3))}${units[unit]}`;
}

function bytes(value) {
  if (!known(value)) return '–';
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(2)} GiB` : `${(value / 2 ** 20).toFixed(0)} MiB`;
}

function duration(seconds) {
  if (!known(seconds)) return '–';
  if (seconds < 60) return `${Number(seconds.toPrecision(2))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const whole = value => known(value) ? Math.round(value).toLocaleString('en') : '–';
const fixed = (value, digits) => known(value) ? value.toFixed(digits) : '–';
const percent = (value, digits = 1) => known(value) ? `${(100 * value).toFixed(digits)} %` : '–';

/* A perplexity has as many decimals as can matter. */
const perplexity = value => known(value) ? (value < 1000 ? value.toFixed(2) : short(value)) : '–';

/* A table in a box that scrolls sideways where the screen is narrow. The first column names the rows; cells are
   strings, elements, or {text, sort} where numbers are meant to stand at the right. */
function table(caption, columns, rows) {
  const head = el('tr', {}, ...columns.map((column, i) =>
    el('th', {scope: 'col', class: i && column.number !== false ? 'number' : null, title: column.help}, column.name)));
  const body = rows.map(row => el('tr', {}, ...row.map((cell, i) => i === 0
    ? el('th', {scope: 'row'}, cell)
    : el('td', {class: columns[i].number !== false ? 'number' : null}, cell))));
  return el('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption},
    el('table', {}, el('caption', {class: 'hidden'}, caption), el('thead', {}, head), el('tbody', {}, ...body)));
}

/* A row of buttons of which one is chosen: radio buttons, so that arrows move and screen readers tell. */
let choosers = 0;
function chooser(label, options, chosen, choose) {
  const name = `chooser-${choosers++}`;
  return el('fieldset', {class: 'chooser'}, el('legend', {}, label), ...options.map(option => el('label', {},
    el('input', {type: 'radio', name, value: option, checked: option === chosen, onchange: () => choose(option)}),
    el('span', {}, option))));
}

/* A list to choose one of; nothing where there is no choice. */
function selector(label, options, choose) {
  if (options.length < 2) return null;
  const select = el('select', {onchange: () => choose(Number(select.value))},
    ...options.map((option, i) => el('option', {value: i}, option)));
  return el('label', {class: 'selector'}, `${label} `, select);
}

/* What `make` gives for one of `names`, which are chosen from a list. */
function stage(label, names, make) {
  const place = el('div');
  let mine = [];
  const show = i => {
    mine.forEach(draw => drawn.delete(draw));
    const others = new Set(drawn);
    place.replaceChildren(...make(i).filter(child => child != null));
    mine = [...drawn].filter(draw => !others.has(draw));
    if (place.isConnected) mine.forEach(draw => draw());
  };
  show(0);
  const choice = selector(label, names, show);
  return [choice && el('div', {class: 'controls'}, choice), place];
}

/* What is under the pointer, in words. */
function showTip(event, text) {
  const tip = document.getElementById('tip');
  tip.hidden = false;
  tip.textContent = text;
  const {width, height} = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${event.clientY + 18 + height < innerHeight ? event.clientY + 18 : event.clientY - height - 10}px`;
}

function hideTip() {
  document.getElementById('tip').hidden = true;
}

/* A colour of style.css, in the theme that is on. */
const color = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

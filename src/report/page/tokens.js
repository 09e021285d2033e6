/* ---- tokens.js: token by token, and word by word, which expert each head chose ------------------------------- */

/* Neighbouring numbers get colours far apart; the number itself is there to be read. */
const hue = expert => `hsl(${Math.round(expert * 137.508) % 360} 60% var(--chip))`;

function chip(expert) {
  return el('span', {class: 'chip', 'data-expert': expert, style: `background: ${hue(expert)}`}, String(expert));
}

function spoken(text, heads) {
  return `“${text}”\n` + heads.map((head, j) => `head ${j}: ` + list(head.experts).map((expert, c) =>
    `expert ${expert}${known(list(head.gates)[c]) ? ` (gate ${fixed(head.gates[c], 2)})` : ''}`).join(', ')).join('\n');
}

/* One layer's choices. Under the pointer, or with the arrow keys, all heads' experts and gates are told, and the
   tokens that share an expert stand out. */
function traceOf(tokens, layerAt) {
  const text = el('div', {class: 'trace', role: 'list'});
  const mark = (token, on) => {
    const own = new Set([...token.querySelectorAll('.chip')].map(one => one.dataset.expert));
    for (const one of text.querySelectorAll('.chip')) one.classList.toggle('same', on && own.has(one.dataset.expert));
  };
  tokens.forEach((token, i) => {
    const heads = list(list(token.layers)[layerAt]?.heads), words = spoken(visible(token.text), heads);
    const begins = /^\s/.test(token.text); /* a word; what follows goes on with it */
    const item = el('span',
      {class: begins ? 'token begins' : 'token', role: 'listitem', tabindex: i ? -1 : 0, 'aria-label': words},
      el('span', {class: 'piece'}, String(token.text).trim() || visible(token.text)),
      el('span', {class: 'chips', 'aria-hidden': 'true'}, ...heads.map(head => chip(list(head.experts)[0]))));
    item.addEventListener('pointermove', event => { showTip(event, words); mark(item, true); });
    item.addEventListener('pointerleave', () => { hideTip(); mark(item, false); });
    item.addEventListener('focus', () => {
      const box = item.getBoundingClientRect();
      showTip({clientX: box.left, clientY: box.top + box.height / 2}, words);
      mark(item, true);
    });
    item.addEventListener('blur', () => { hideTip(); mark(item, false); });
    item.addEventListener('keydown', event => {
      const next = {ArrowRight: item.nextSibling, ArrowLeft: item.previousSibling}[event.key];
      next?.focus();
      if (next) event.preventDefault();
    });
    text.append(item);
  });
  return text;
}

function tokensSection() {
  const tokens = list(analysis.trace?.tokens);
  if (!tokens.length) return null;
  const layers = list(tokens[0].layers).map(layer => `layer ${layer.layer}`);
  return section('tokens', 'Token by token',
    el('p', {class: 'muted'}, 'Under each token stands the expert that each head chose first. Point at a token, or walk ' +
      'with the arrow keys, for all choices and their gates; what shares an expert with it is framed.'),
    ...stage('Layer', layers, i => [traceOf(tokens, i)]));
}

function occurrence(one, layerAt) {
  const heads = list(list(one.layers)[layerAt]?.heads);
  return el('tr', {}, el('td', {class: 'chips'}, ...heads.map(experts => chip(list(experts)[0]))),
    el('td', {}, one.before ?? '', el('strong', {}, one.text ?? ''), one.after ?? '',
      one.label ? el('span', {class: 'muted'}, ` (${one.label})`) : null));
}

function wordBlock(word, layerAt) {
  const {changed, heads} = list(word.layers)[layerAt] ?? {};
  const byHead = list(heads).length > 1 ? ` (by head: ${heads.map(share => percent(share, 0)).join(', ')})` : '';
  const caption = `Experts of each head for “${word.word}”, sentence by sentence`;
  return el('div', {class: 'word'},
    el('h3', {}, `“${word.word}”, ${word.found === 1 ? 'once' : `${whole(word.found)} times`}`),
    known(changed) ? el('p', {class: 'muted'},
      `Between two of its sentences ${percent(changed, 0)} of the choices differ${byHead}.`) : null,
    el('div', {class: 'scroll'}, el('table', {}, el('caption', {class: 'hidden'}, caption),
      el('tbody', {}, ...list(word.occurrences).map(one => occurrence(one, layerAt))))));
}

function wordsSection() {
  const words = list(analysis.words).filter(word => list(word.occurrences).length);
  if (!words.length) return null;
  const layers = list(words[0].layers).map(layer => `layer ${layer.layer}`);
  return section('words', 'Words in their sentences',
    el('p', {class: 'muted'}, 'The expert that each head chose first at the word, in each sentence.'),
    ...stage('Layer', layers, i => words.map(word => wordBlock(word, i))));
}

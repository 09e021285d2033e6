/* ---- tokens.js: what `mhmoe analyse` found ------------------------------------------------------------------- */

function analysisSections() {
  return [];
}

// The virtual environment that belongs to this checkout's locks.
//
// Each state of them has one of its own, so that a deployment never changes packages under a running
// process, and going back to an earlier lock finds its environment ready.
'use strict';

const { createHash } = require('crypto');
const fs = require('fs');
const path = require('path');

const root = path.dirname(__dirname);

/** Its name, whether it is there or not. */
function venvName() {
  const hash = createHash('sha256');
  for (const lock of ['serve.txt', 'serve-tracing.txt']) {
    hash.update(fs.readFileSync(path.join(root, 'requirements', lock)));
  }
  return `.venv-${hash.digest('hex').slice(0, 12)}`;
}

/** Its path if deploy/release.sh has built it, or that of the one which `make install` builds. */
function venv() {
  const built = path.join(root, venvName());
  return fs.existsSync(path.join(built, '.serve')) ? built : path.join(root, '.venv');
}

module.exports = { venv, venvName };

// node deploy/rehearse.js staging
//
// Starts the service once as pm2 would, on a free port of 127.0.0.1, and ends with 0 if it becomes
// ready. What cannot start or cannot reach its store is so found out before a reload, which pm2
// would carry through to the last instance.
'use strict';

const { spawn } = require('child_process');
const { apps } = require('../ecosystem.config.js');

const READY_MS = 60000;

const [app] = apps;
const environment = `env_${process.argv[2]}`;
if (!(environment in app)) {
  console.error(`usage: rehearse.js ${Object.keys(app).filter((k) => k.startsWith('env_'))}`);
  process.exit(2);
}
const [shell, run, ...command] = app.args;
const apart = ['env', '-u', 'PROMETHEUS_MULTIPROC_DIR', 'HOST=127.0.0.1', 'PORT=0', 'LISTENER_DIR=', 'DRAIN_SECONDS=0'];
const child = spawn(app.script, [shell, run, ...apart, ...command], {
  cwd: app.cwd,
  env: { ...process.env, ...app.env, ...app[environment] },
  stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
});

let outcome = 'ended before it was ready';
const late = setTimeout(() => {
  outcome = `not ready after ${READY_MS / 1000} s: does the database at MONGO_URL answer?`;
  child.kill();
}, READY_MS);
child.once('message', (word) => {
  if (word === 'ready') outcome = undefined;
  child.kill();
});
child.once('error', (error) => {
  outcome = error.message;
});
child.once('close', () => {
  clearTimeout(late);
  if (outcome) console.error(`stream-service: this version is not let live: ${outcome}`);
  process.exitCode = outcome ? 1 : 0;
});

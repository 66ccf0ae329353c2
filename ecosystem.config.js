// pm2 start ecosystem.config.js                the service, on this machine
// pm2 deploy staging setup                     prepare a server
// pm2 deploy staging                           deploy to it; with this file's name before staging, too
// docs/deployment.md tells the rest.
'use strict';

const fs = require('fs');
const os = require('os');
const path = require('path');
const { venv } = require('./deploy/venv.js');

const { env } = process;
const pm2Home = env.PM2_HOME || path.join(os.homedir(), '.pm2');
// A server's settings are in its file alone, which each start reads anew: deploy/run.sh.
const file = path.resolve(__dirname, env.SHARED || '../shared', 'stream-service.env');
const given = fs.existsSync(file) ? {} : env;

const service = {
  name: 'stream-service',
  cwd: __dirname,
  // A reload takes over new arguments, but never a new script. With the interpreter among the
  // arguments, a reload can change to another virtual environment.
  script: '/usr/bin/env',
  args: ['sh', 'deploy/run.sh', path.join(venv(), 'bin', 'python'), '-m', 'stream_service'],
  interpreter: 'none',
  exec_mode: 'fork',

  // One serves while the other restarts. pm2 reloads up to two one by one, more two at a time.
  instances: 2,
  // Online is who serves and whose store answers. After listen_timeout pm2 goes on in any case.
  wait_ready: true,
  listen_timeout: 60000,
  // More than DRAIN_SECONDS and twice GRACE_SECONDS (stream_service/process/server.py) take together.
  kill_timeout: 20000,

  autorestart: true,
  exp_backoff_restart_delay: 200,
  max_memory_restart: '300M',

  // The service logs JSON lines to standard error. Standard output has its events, if EVENTS is set.
  error_file: path.join(pm2Home, 'logs', 'stream-service.log'),
  out_file: path.join(pm2Home, 'logs', 'stream-service.events'),
  merge_logs: true,

  // Whatever else the service reads comes from the file, or without one from the command's environment.
  env: {
    HOST: given.HOST || '127.0.0.1',
    PORT: given.PORT || '3001',
    LOG_LEVEL: given.LOG_LEVEL || 'INFO',
    // Relative to cwd: the path of a Unix socket may have 107 characters.
    LISTENER_DIR: 'run',
    PROMETHEUS_MULTIPROC_DIR: 'run',
    DRAIN_SECONDS: '5',
  },
  env_development: { LOG_LEVEL: given.LOG_LEVEL || 'DEBUG' },
  // Reached directly, with the port, as it was from the beginning.
  env_staging: { HOST: given.HOST || '0.0.0.0' },
  // Behind nginx: deploy/nginx.conf.
  env_production: {},
};

function required(name, host) {
  const variables = ['DEPLOY_USER', 'DEPLOY_REPO', ...(host ? [] : ['DEPLOY_HOST'])];
  const missing = variables.filter((variable) => !env[variable]);
  if (missing.length > 0) {
    console.error(
      `stream-service: ${missing.join(' and ')} must be set to deploy: DEPLOY_USER is the user on ` +
        'the server, DEPLOY_REPO the repository that the server clones, DEPLOY_HOST the server. ' +
        'DEPLOY_PATH, DEPLOY_REF and DEPLOY_SSH_OPTIONS may be set: see docs/deployment.md'
    );
    process.exit(1);
  }
  return env[name];
}

function target(environment, host) {
  return {
    // Every pm2 command reads this file, on the server too. Only `pm2 deploy` reads these.
    get user() {
      return required('DEPLOY_USER', host);
    },
    get repo() {
      return required('DEPLOY_REPO', host);
    },
    host: env.DEPLOY_HOST || host,
    path: env.DEPLOY_PATH || '/srv/stream-service',
    ref: env.DEPLOY_REF || 'origin/main',
    ssh_options: (env.DEPLOY_SSH_OPTIONS || '').split(' ').filter(Boolean),
    'post-deploy': `sh deploy/release.sh ${environment}`,
  };
}

module.exports = {
  apps: [service],
  deploy: { staging: target('staging', 'failblazing.com'), production: target('production') },
};

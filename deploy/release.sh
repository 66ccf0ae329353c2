#!/bin/sh
# sh deploy/release.sh staging
#
# On the server, in a checkout that was just updated: build its virtual environment, rehearse, and
# only then reload. A step that fails ends it, and what is running goes on.
set -eu
environment=$1
cd "$(dirname "$0")/.."

# What this server alone knows: MONGO_URL, GATEWAY_TOKEN, OPERATOR_TOKEN, DIGEST_KEY, PORT ...
settings=${SHARED:-../shared}/stream-service.env
if [ -f "$settings" ]; then
    set -a
    . "$settings"
    set +a
fi

venv=$(node -p "require('./deploy/venv.js').venvName()")
make --no-print-directory install VENV="$venv"
node deploy/rehearse.js "$environment"
pm2 startOrReload ecosystem.config.js --env "$environment"
# What is saved holds MONGO_URL, the tokens and the key. pm2 keeps the mode of a file that is there.
umask 077
for dump in "${PM2_HOME:-$HOME/.pm2}"/dump.pm2*; do
    if [ -f "$dump" ]; then
        chmod 600 "$dump"
    fi
done
pm2 save

# The two before this one stay, for a revert.
touch "$venv"
ls -1dt .venv-*/ | tail -n +4 | xargs rm -rf

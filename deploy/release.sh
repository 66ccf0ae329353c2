#!/bin/sh
# sh deploy/release.sh staging
#
# On the server, in a checkout that was just updated: build its virtual environment, rehearse, and
# only then reload. A step that fails ends it, and what is running goes on.
set -eu
environment=$1
cd "$(dirname "$0")/.."

venv=$(node -p "require('./deploy/venv.js').venvName()")
make --no-print-directory install VENV="$venv"
node deploy/rehearse.js "$environment"
pm2 startOrReload ecosystem.config.js --env "$environment"
# pm2 goes on whatever becomes of what it started. A process that keeps ending is not online, or is
# soon another one.
instances() {
    pm2 jlist --silent | node -e '
        const apps = JSON.parse(require("fs").readFileSync(0));
        for (const { name, pid, pm2_env } of apps)
            if (name === "stream-service") console.log(pm2_env.status, pid);'
}
up=$(instances)
sleep 5
if [ "$(instances)" != "$up" ] || echo "$up" | grep -qv '^online '; then
    echo "stream-service: not every new process stays up; \`pm2 logs stream-service\` says why" >&2
    exit 1
fi
# Each process has the settings of the file, and no others: to set them anew changes nothing.
settled='tr "\0" "\n" | grep -vE "^(_|PWD|OLDPWD|SHLVL)=" | sort'
for pid in $(pm2 pid stream-service); do
    now=$(eval "$settled" <"/proc/$pid/environ")
    anew=$(xargs -0 -a "/proc/$pid/environ" sh -c 'exec env -i "$@" sh deploy/run.sh env -0' sh | eval "$settled")
    if [ "$now" != "$anew" ]; then
        echo "stream-service: process $pid does not have the settings of the file" >&2
        exit 1
    fi
done
pm2 save

# The two before this one stay, for a revert.
touch "$venv"
ls -1dt .venv-*/ | tail -n +4 | xargs rm -rf

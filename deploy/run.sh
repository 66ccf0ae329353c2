#!/bin/sh
# sh deploy/run.sh COMMAND...
#
# Run a command with the settings of this server, as the file has them now. pm2 keeps the environment
# of earlier starts, also what was removed since, so nothing of it stays but what is named here.
# Without the file, the environment is left as it is.
set -eu
settings=${SHARED:-../shared}/stream-service.env
if [ -f "$settings" ]; then
    for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
        case $name in
        PATH | HOME | USER | LANG | TZ | SHARED | NODE_CHANNEL_FD | NODE_CHANNEL_SERIALIZATION_MODE) ;;
        HOST | PORT | LOG_LEVEL | LISTENER_DIR | PROMETHEUS_MULTIPROC_DIR | DRAIN_SECONDS) ;; # ecosystem.config.js
        *) unset "$name" ;;
        esac
    done
    set -a
    . "$settings"
    set +a
fi
# Closed to other users, as LISTENER_DIR has to be.
(umask 077 && mkdir -p "${PROMETHEUS_MULTIPROC_DIR:-.}")
exec "$@"

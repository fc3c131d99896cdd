#!/bin/sh
# Makes every secret of a new deployment, a folder for each, a file for each key:
#
#   deploy/secrets.sh FOLDER HOST [HOST…]     HOST: the names that clients use for the gateway
#
# Keeps what is there, so it can be run again for what is missing. FOLDER/ca signs the certificates between our own
# services, for a year; keep its key away from the cluster. edge-tls is signed by itself: put your own in its place.
set -eu
umask 077

if [ $# -lt 2 ]; then
  echo "usage: $0 FOLDER HOST [HOST...]" >&2
  exit 2
fi
folder=$1
shift

# random FILE: 32 random bytes in hex.
random() {
  mkdir -p "$(dirname "$folder/$1")"
  [ -s "$folder/$1" ] || openssl rand -hex 32 > "$folder/$1"
}

copy() {
  mkdir -p "$(dirname "$folder/$2")"
  cp "$folder/$1" "$folder/$2"
}

# An X.509 extension with DNS names.
names() {
  list=
  for name in "$@"; do list="$list,DNS:$name"; done
  echo "subjectAltName=${list#,}"
}

key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

# certificate SECRET USAGE NAME…: a certificate of our authority.
certificate() {
  at=$folder/$1 usage=$2
  shift 2
  mkdir -p "$at"
  cp "$folder/ca/ca.crt" "$at/ca.crt"
  [ ! -s "$at/tls.crt" ] || return 0
  key "$at/tls.key"
  openssl req -new -key "$at/tls.key" -subj "/CN=$1" -addext "$(names "$@")" -addext "extendedKeyUsage=$usage" |
    openssl x509 -req -CA "$folder/ca/ca.crt" -CAkey "$folder/ca/ca.key" -days 365 -copy_extensions copy \
      -out "$at/tls.crt" 2>/dev/null
}

mkdir -p "$folder/ca" "$folder/edge-tls"
if [ ! -s "$folder/ca/ca.crt" ]; then
  key "$folder/ca/ca.key"
  openssl req -x509 -new -key "$folder/ca/ca.key" -days 3650 -subj "/CN=Tollhouse services" -out "$folder/ca/ca.crt"
fi
certificate billing serverAuth billing billing.tollhouse.svc
certificate admin serverAuth admin admin.tollhouse.svc
certificate extproc clientAuth extproc.tollhouse.internal
certificate operator clientAuth operator.tollhouse.internal
if [ ! -s "$folder/edge-tls/tls.crt" ]; then
  key "$folder/edge-tls/tls.key"
  openssl req -x509 -new -key "$folder/edge-tls/tls.key" -days 365 -subj "/CN=$1" -addext "$(names "$@")" \
    -out "$folder/edge-tls/tls.crt"
fi

random authz/pepper
copy authz/pepper admin/pepper
copy authz/pepper operator/pepper
for user in authz extproc billing admin operator; do
  random "redis-users/$user"
  copy "redis-users/$user" "$user/redis-password"
done
random operator/admin-token
printf 'operator:%s\n' "$(cat "$folder/operator/admin-token")" > "$folder/admin/admin-tokens"
random grafana/admin-password
echo "secrets are in $folder"

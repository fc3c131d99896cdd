#!/bin/sh
# Makes Redis' ACL file of users.acl and a folder of passwords, a file for each user:
#
#   ./render.sh /run/secrets/redis-users > /etc/redis/users.acl
#   ./render.sh --6.2 /run/secrets/redis-users > ...    for a Redis before 7.0
#
# Only hashes get into the output. White space around a password is not part of it.
set -eu

joined='
/^#/ || /^$/ { next }
/^ / { sub(/^ +/, " "); printf "%s", $0; next }
{ if (begun++) print ""; printf "%s", $0 }
END { print "" }
'

flat='s/^//'
if [ "${1:-}" = --6.2 ]; then
  # No selectors and no %R~ there: a user's rights are one list.
  flat='s/[()]//g; s/%RW*~/~/g'
  shift
fi
if [ $# -ne 1 ]; then
  echo "usage: $0 [--6.2] FOLDER-WITH-A-PASSWORD-FILE-PER-USER" >&2
  exit 2
fi

hashes=
for user in authz extproc billing admin operator; do
  password=$(tr -d '\r' < "$1/$user" | sed -e 's/^[[:space:]]*//' -e 's/[[:space:]]*$//')
  if [ -z "$password" ]; then
    echo "$0: $1/$user is empty" >&2
    exit 1
  fi
  hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
  hashes="$hashes; s/<$user>/$hash/"
done

awk "$joined" "$(dirname "$0")/users.acl" | sed -e "$flat$hashes"

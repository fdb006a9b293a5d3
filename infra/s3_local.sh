#!/usr/bin/env bash
# A local S3 server on loopback, for development and tests.
#
#   infra/s3_local.sh start [FOLDER]   starts it and prints the settings to export
#   infra/s3_local.sh stop  [FOLDER]   ends what `start` started, by pid, and removes FOLDER
#
# A real one where Debian's packages are installed: one Ceph monitor, one in-memory OSD, one RADOS
# gateway (apt-get install ceph-mon ceph-osd ceph-common radosgw; about 360 MB of memory, ready in
# 15 s). Otherwise moto, an in-memory imitation from the Python environment. Nothing is installed here.
#
#   S3_PORT (19004), S3_ACCESS_KEY, S3_SECRET_KEY, S3_BYTES (2 GiB held in memory)
set -Eeuo pipefail

verb=${1:-}
folder=$(realpath -m "${2:-${TMPDIR:-/tmp}/crystalign-s3}")
port=${S3_PORT:-19004}
key=${S3_ACCESS_KEY:-crystalign}
secret=${S3_SECRET_KEY:-crystalign-secret}
endpoint=http://127.0.0.1:$port

listens() { (echo > "/dev/tcp/127.0.0.1/$port") 2> /dev/null; }

# until SECONDS COMMAND…: try until it succeeds
until_ok() {
  local tries=$(($1 * 4))
  shift
  for _ in $(seq 1 "$tries"); do
    "$@" > /dev/null 2>&1 && return 0
    sleep 0.25
  done
  echo "gave up waiting for: $*" >&2
  return 1
}

# ends the processes and waits until they are gone, so that the port is free again
end_processes() {
  local pid
  for name in rgw osd mon moto; do
    [ -f "$folder/$name.pid" ] || continue
    pid=$(cat "$folder/$name.pid")
    kill "$pid" 2> /dev/null || continue
    until_ok 10 sh -c "! kill -0 $pid" || kill -9 "$pid" 2> /dev/null || true
  done
}

configure_ceph() {
  mkdir -p "$folder"/{mon,osd/0,run,rgw,log}
  cat > "$folder/ceph.conf" << X
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = [v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]
mon_initial_members = a
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
mon_max_pg_per_osd = 1000
run_dir = $folder/run
log_file = $folder/log/\$name.log
mon_cluster_log_file = $folder/log/cluster.log
admin_socket = $folder/run/\$name.asok
pid_file = $folder/run/\$name.pid
keyring = $folder/keyring
[mon.a]
mon_data = $folder/mon
mon_data_avail_crit = 1
mon_data_avail_warn = 2
[osd.0]
osd_data = $folder/osd/0
osd_objectstore = memstore
memstore_device_bytes = ${S3_BYTES:-2147483648}
keyring = $folder/osd/0/keyring
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
[client.rgw.0]
rgw_frontends = beast endpoint=127.0.0.1:$port
rgw_data = $folder/rgw
X
}

start_ceph() {
  configure_ceph
  cd "$folder"
  export CEPH_CONF=$folder/ceph.conf
  local fsid osd
  fsid=$(sed -n 's/^fsid = //p' ceph.conf)
  osd=$(cat /proc/sys/kernel/random/uuid)
  ceph-authtool --create-keyring keyring --gen-key -n mon. --cap mon 'allow *' > /dev/null
  ceph-authtool keyring --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' > /dev/null
  monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]" monmap > /dev/null 2>&1
  ceph-mon --mkfs -i a --monmap monmap --keyring keyring > /dev/null 2>&1
  nohup ceph-mon -i a -f > mon.out 2>&1 & echo $! > mon.pid
  until_ok 30 timeout 5 ceph -s
  timeout 20 ceph osd new "$osd" > /dev/null 2>&1
  timeout 20 ceph auth get-or-create osd.0 mon 'allow profile osd' osd 'allow *' mgr 'allow profile osd' -o osd/0/keyring 2> /dev/null
  # the gateway loops for ever without a key of its own
  timeout 20 ceph auth get-or-create client.rgw.0 mon 'allow rw' osd 'allow rwx' mgr 'allow rw' >> keyring 2> /dev/null
  timeout 60 ceph-osd -i 0 --mkfs --osd-uuid "$osd" > /dev/null 2>&1
  nohup ceph-osd -i 0 -f > osd.out 2>&1 & echo $! > osd.pid
  timeout 20 ceph osd crush add osd.0 1.0 root=default host=h > /dev/null 2>&1
  until_ok 30 sh -c 'timeout 5 ceph osd stat | grep -q "1 up"'
  nohup radosgw -n client.rgw.0 -f > rgw.out 2>&1 & echo $! > rgw.pid
  until_ok 60 listens
  timeout 60 radosgw-admin -n client.rgw.0 user create --uid=crystalign --display-name=crystalign \
    --access-key="$key" --secret="$secret" > /dev/null 2>&1
}

start_moto() {
  local moto
  moto=$(command -v moto_server || echo "$(dirname "$0")/../.venv/bin/moto_server")
  if [ ! -x "$moto" ]; then
    echo "neither Ceph nor moto is installed: apt-get install ceph-mon ceph-osd ceph-common radosgw, or 'make env'" >&2
    exit 1
  fi
  mkdir -p "$folder"
  nohup "$moto" -H 127.0.0.1 -p "$port" > "$folder/moto.out" 2>&1 & echo $! > "$folder/moto.pid"
  until_ok 30 listens
}

case $verb in
  stop)
    end_processes
    rm -rf "$folder"
    ;;
  start)
    if listens; then echo "port $port is taken; set S3_PORT" >&2; exit 1; fi
    rm -rf "$folder"
    trap 'end_processes; echo "did not start; logs are in $folder" >&2' ERR
    if command -v radosgw > /dev/null && command -v ceph-osd > /dev/null; then (start_ceph); else start_moto; fi
    echo "export AWS_ENDPOINT_URL=$endpoint AWS_ACCESS_KEY_ID=$key AWS_SECRET_ACCESS_KEY=$secret AWS_DEFAULT_REGION=us-east-1"
    echo "export AWS_REQUEST_CHECKSUM_CALCULATION=when_required AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
    echo "export CRYSTALIGN_S3_ENDPOINT=$endpoint CRYSTALIGN_S3_ACCESS_KEY=$key CRYSTALIGN_S3_SECRET_KEY=$secret"
    ;;
  *)
    sed -n '2,10p' "$0"
    exit 2
    ;;
esac

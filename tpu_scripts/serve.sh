#!/usr/bin/env bash
# Serve an exported model with TensorFlow Serving's own image, here, until Ctrl-C. It needs docker, and no TPU.
set -euo pipefail
. "$(dirname "$0")/cloud.sh"

usage() {
  cat << TEXT
usage: serve.sh [--rest-port 8501] [--grpc-port 8500] [--listen 127.0.0.1] [--batching FILE] [--image IMAGE]
                [--dry-run] MODEL MODEL_DIR
for example: serve.sh whisper gs://BUCKET/runs/hindi/export/whisper
MODEL_DIR holds the versions (MODEL_DIR/1/saved_model.pb), local or gs://; the newest is served, a new one taken up.
  --listen A       0.0.0.0 serves other machines too: the server knows no passwords
  --batching FILE  batching_parameters_file: requests that come together share a batch
  --image IMAGE    $IMAGE
For a bucket that is not public, GOOGLE_APPLICATION_CREDENTIALS names the key file; on a Google VM none is needed.
REST: http://localhost:8501/v1/models/MODEL, audio and images as base64 (a JSON list of floats is many times as long).
gRPC: the server takes messages up to 2 GB; a client refuses answers above 4 MB unless its channel says otherwise:
  grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 64 << 20)])
--dry-run prints the command, quoted for a shell, and does not run it.
TEXT
}

IMAGE=tensorflow/serving:2.20.0 REST_PORT=8501 GRPC_PORT=8500 LISTEN=127.0.0.1 BATCHING=''
while [ $# -gt 0 ]; do
  case $1 in
    --rest-port) option REST_PORT "$@"; shift ;;
    --grpc-port) option GRPC_PORT "$@"; shift ;;
    --listen) option LISTEN "$@"; shift ;;
    --batching) option BATCHING "$@"; shift ;;
    --image) option IMAGE "$@"; shift ;;
    -*) shared_option "$1" ;;
    *) break ;;
  esac
  shift
done
check_count $# 2
[[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || fail "MODEL: got '$1', expected letters, digits, _ . and -"
[ $# = 2 ] || fail "got '$3' after MODEL_DIR, expected nothing"
check_port --rest-port "$REST_PORT"
check_port --grpc-port "$GRPC_PORT"

# mounted FILE TARGET: docker's notation for it, which has no way to write a comma.
mounted() {
  [ -e "$1" ] || fail "$1: expected a file or folder, it is not there"
  local source
  source=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
  case $source in *[,\"]*) fail "$source: docker takes no comma and no quote in a path; expected another folder" ;; esac
  options+=(--mount "type=bind,source=$source,target=$2,readonly")
}

options=(--rm --name "tfhf-$1" --publish "$LISTEN:$REST_PORT:8501" --publish "$LISTEN:$GRPC_PORT:8500"
  --env "MODEL_NAME=$1")
flags=()
case $2 in
  gs://?*)
    flags+=("--model_base_path=$2")
    if [ -n "${GOOGLE_APPLICATION_CREDENTIALS:-}" ]; then
      mounted "$GOOGLE_APPLICATION_CREDENTIALS" /credentials.json
      options+=(--env GOOGLE_APPLICATION_CREDENTIALS=/credentials.json)
    fi
    ;;
  *)
    [ -n "$(compgen -G "$2/[0-9]*/saved_model.pb")" ] ||
      fail "MODEL_DIR: got '$2', expected a folder with VERSION/saved_model.pb, as tfhf export writes it"
    mounted "$2" "/models/$1"
    ;;
esac
if [ -n "$BATCHING" ]; then
  mounted "$BATCHING" /batching.pbtxt
  flags+=(--enable_batching --batching_parameters_file=/batching.pbtxt)
fi
[ -n "$DRY" ] || echo "http://localhost:$REST_PORT/v1/models/$1 until Ctrl-C, or: docker stop tfhf-$1" >&2
become docker run "${options[@]}" "$IMAGE" ${flags[@]+"${flags[@]}"}

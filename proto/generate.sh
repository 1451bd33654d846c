#!/bin/sh
# Generates message.pb.go from message.proto and fbs/WsMessage.go from message.fbs.
# It needs Go, protoc 3.21.12 and flatc 2.0.8 (Debian 12: protobuf-compiler and
# flatbuffers-compiler). It builds protoc-gen-go in the version of go.mod.
set -eu
cd "$(dirname "$0")/.."

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
version=$(go list -m -f '{{.Version}}' google.golang.org/protobuf)
GOBIN=$bin go install "google.golang.org/protobuf/cmd/protoc-gen-go@$version"

# The file registers itself in the program under the path given to protoc. A short
# path would clash with other files named message.proto.
module=github.com/maoxiaoyue/hypgo-websocket
PATH=$bin:$PATH protoc -I "$module/proto=proto" --go_out=. --go_opt=module="$module" proto/message.proto
flatc --go -o proto proto/message.fbs
gofmt -w proto/fbs/WsMessage.go

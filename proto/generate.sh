#!/bin/sh
# Writes message.pb.go and fbs/WsMessage.go anew from message.proto and
# message.fbs. Needs protoc 3.21.12 and flatc 2.0.8 (Debian 12's
# protobuf-compiler and flatbuffers-compiler) besides Go; protoc-gen-go is the
# one of go.mod.
set -eu
cd "$(dirname "$0")/.."

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
version=$(go list -m -f '{{.Version}}' google.golang.org/protobuf)
GOBIN=$bin go install "google.golang.org/protobuf/cmd/protoc-gen-go@$version"

# The full import path becomes the name that the file registers itself under. A
# short one would clash with other message.proto files in the same program.
module=github.com/maoxiaoyue/hypgo-websocket
PATH=$bin:$PATH protoc -I "$module/proto=proto" --go_out=. --go_opt=module="$module" proto/message.proto
flatc --go -o proto proto/message.fbs
gofmt -w proto/fbs/WsMessage.go

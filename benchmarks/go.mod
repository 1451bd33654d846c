module github.com/maoxiaoyue/hypgo-websocket/benchmarks

go 1.25.0

require (
	github.com/gorilla/websocket v1.5.3
	github.com/lxzan/gws v1.8.9
	github.com/maoxiaoyue/hypgo-websocket v0.0.0
	github.com/olahol/melody v1.1.4
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/dolthub/maphash v0.1.0 // indirect
	github.com/google/flatbuffers v25.12.19+incompatible // indirect
	github.com/klauspost/compress v1.17.9 // indirect
	github.com/vmihailenco/msgpack/v5 v5.4.1 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/maoxiaoyue/hypgo-websocket => ../

module github.com/maoxiaoyue/hypgo-websocket/test/hypgo

go 1.25.0

require (
	github.com/maoxiaoyue/hypgo-websocket v0.1.0
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/google/flatbuffers v25.12.19+incompatible // indirect
	github.com/gorilla/websocket v1.5.3 // indirect
	github.com/vmihailenco/msgpack/v5 v5.4.1 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/maoxiaoyue/hypgo-websocket => ../..

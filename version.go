package websocket

// version is the version of this release. The release program checks and writes it.
const version = "0.1.0"

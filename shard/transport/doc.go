// Package transport carries all Raft groups of a node to the other nodes over a
// few connections.
//
// # Connections
//
// For each ordered pair of nodes there is one connection per lane, made by the
// node that has something to ask: a fast lane for heartbeats, read rounds,
// votes and calls, append lanes (a group always uses the same one), and a
// snapshot lane. A connection carries frames both ways; requests are numbered
// and answered in any order. It opens with a handshake in which both sides say
// who they are, and either may refuse.
//
// # Frames
//
//	length uint32 | crc32c uint32 | kind uint8 | id uint64 | body
//
// in little-endian order; length and checksum cover what follows them. Bodies
// are the messages of package peerpb, or raw bytes of a snapshot. A frame is at
// most MaxFrameBytes long.
//
// # Reading order
//
// config.go has all bounds and times. Then frame.go, conn.go (one established
// connection), link.go (keeps one up), handshake.go, group.go (what Raft calls),
// receive.go (what peers ask). heartbeat.go, pulse.go and confirm.go belong
// together: heartbeats of all groups to one node share messages, and so do the
// read rounds that prove leadership. snapshot_send.go and snapshot_receive.go
// stream snapshots.
package transport

// Command bench compares kvd with etcd on one machine: it starts three real
// processes of each in turn, drives both with the same load generator
// (cmd/kvctl/bench), and prints ratios, or, of faults of a leader, the times
// without writes. Further commands measure kvd alone where there is nothing to
// compare: loading, restart, number of shards.
//
// It is a module of its own so that kvd does not depend on etcd; the etcd
// server is built in yet another one, etcdserver, with the very dependencies
// that its release was made with.
//
// Fairness: both systems run with default settings and fsync on, their data on
// the same disk. etcd is driven through its own Go client, one clientv3.Client
// shared by all goroutines and balanced over the three members (--etcd-clients
// spreads the goroutines over more, should that serve it better); kvd through
// one client.Client. Only one of the systems runs at a time, rounds alternate
// between them, and what is reported are medians over the rounds.
package main

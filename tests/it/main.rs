//! The black-box tests: real servers, real workers, real Python clients.

// Everything here is reachable from this one binary only.
#![allow(unreachable_pub)]

mod amqp;
mod canvas;
mod celery_suite;
mod chords;
mod cli;
mod compliance;
mod conformance;
mod content;
mod control;
mod events;
mod execution;
mod filesystem;
mod fleet;
mod flower;
mod golden;
mod harness;
mod interop;
mod json_log;
mod layers;
mod load;
mod long;
mod monitor;
mod old_clients;
mod operator;
mod options;
mod queues;
mod readme;
mod redis;
mod routing;
mod sandbox;
mod sending;
mod settings;
mod shutdown;
mod traces;

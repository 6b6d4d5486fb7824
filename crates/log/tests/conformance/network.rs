//! A network in memory that loses, repeats, reorders and cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use synod_log::{Membership, NodeId, Transport};

#[derive(Default)]
struct State {
    /// Of running nodes.
    queues: BTreeMap<NodeId, Vec<(NodeId, Bytes)>>,
    cut_off: BTreeSet<NodeId>,
    /// Of a thousand messages, so many are lost; as many come twice, and as many overtake others.
    faults_per_mille: u64,
    random: u64,
    woken: bool,
}

impl State {
    /// splitmix64: the same faults for the same traffic.
    fn chance(&mut self) -> bool {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) % 1000 < self.faults_per_mille
    }
}

#[derive(Clone, Default)]
pub struct Network(Arc<(Mutex<State>, Condvar)>);

impl Network {
    pub fn link(&self, node: NodeId) -> Link {
        self.0.0.lock().unwrap().queues.insert(node, Vec::new());
        Link {
            network: self.clone(),
            node,
        }
    }

    pub fn set_connected(&self, node: NodeId, connected: bool) {
        let mut state = self.0.0.lock().unwrap();
        if connected {
            state.cut_off.remove(&node)
        } else {
            state.cut_off.insert(node)
        };
    }

    pub fn set_faults(&self, per_mille: u64) {
        self.0.0.lock().unwrap().faults_per_mille = per_mille;
    }

    pub fn wake(&self) {
        self.0.0.lock().unwrap().woken = true;
        self.0.1.notify_all();
    }

    pub fn wait(&self, timeout: Duration) {
        let state = self.0.0.lock().unwrap();
        let idle = |state: &mut State| !state.woken;
        let (mut state, _) = self.0.1.wait_timeout_while(state, timeout, idle).unwrap();
        state.woken = false;
    }
}

pub struct Link {
    network: Network,
    node: NodeId,
}

impl Transport for Link {
    fn set_members(&mut self, _: &Membership) {}

    fn send(&mut self, to: NodeId, message: Bytes) {
        assert_ne!(to, self.node, "a node does not write to itself");
        {
            let mut state = self.network.0.0.lock().unwrap();
            if state.cut_off.contains(&to) || state.cut_off.contains(&self.node) || state.chance() {
                return;
            }
            let (twice, overtakes) = (state.chance(), state.chance());
            let Some(queue) = state.queues.get_mut(&to) else { return };
            if twice {
                queue.push((self.node, message.clone()));
            }
            let at = if overtakes { queue.len() / 2 } else { queue.len() };
            queue.insert(at, (self.node, message));
        }
        self.network.wake();
    }

    fn receive(&mut self, into: &mut Vec<(NodeId, Bytes)>) {
        let mut state = self.network.0.0.lock().unwrap();
        if let Some(queue) = state.queues.get_mut(&self.node) {
            into.append(queue);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // What was on its way to a process that has ended is lost.
        self.network.0.0.lock().unwrap().queues.remove(&self.node);
    }
}

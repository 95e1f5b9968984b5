//! Fits what an environment asks for to a machine.

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use crate::{
    types::ByteSize,
    workspace::definition::{Amount, Environment, Quantity, Resources},
};

/// Of the memory so much stays for everything else: a tenth, and this at least.
const MEMORY_RESERVE: u64 = 1 << 30;

/// Of the disk's space likewise.
const DISK_RESERVE: u64 = 2 << 30;

/// How an environment would run on a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The profile that was picked, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What it gets of what it asks for.
    pub given: Vec<Given>,
    /// Whether it can't run well here: less than its minimum is there of something.
    pub is_short: bool,
}

/// What it gets of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// Of what.
    pub what: Thing,
    /// How much: cores, bytes, or graphics processors.
    pub amount: f64,
    /// What it wants.
    pub wanted: f64,
    /// What it needs.
    pub minimum: f64,
    /// What there is for it, after what is kept back.
    pub there: f64,
}

/// What machines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thing {
    /// Processor cores.
    Cpu,
    /// Memory, in bytes.
    Memory,
    /// Space on the disk, in bytes.
    Disk,
    /// Graphics processors.
    Gpu,
}

impl Given {
    /// Whether it's less than what is needed.
    pub fn is_short(&self) -> bool {
        self.there < self.minimum
    }

    /// What it gets, in words.
    pub fn describe(&self) -> String {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "sizes are shown, and are never negative"
        )]
        let shown = |amount: f64| match self.what {
            Thing::Memory | Thing::Disk => ByteSize(amount as u64).rounded(),
            Thing::Cpu => format!("{amount} cores"),
            Thing::Gpu if (amount - 1.0).abs() < 0.5 => "1 graphics processor".to_owned(),
            Thing::Gpu => format!("{amount} graphics processors"),
        };
        let what = match self.what {
            Thing::Memory => " of memory",
            Thing::Disk => " on the disk",
            Thing::Cpu | Thing::Gpu => "",
        };
        if self.is_short() {
            let (needed, there) = (shown(self.minimum), shown(self.there));
            return format!("SHORT: it needs {needed}{what}, and there are {there} for it");
        }
        if self.amount < self.wanted {
            return format!("{}{what} of the {} that it wants", shown(self.amount), shown(self.wanted));
        }
        format!("{}{what}", shown(self.amount))
    }
}

/// Fits an environment to a machine: with the first of its profiles that the machine has enough for; if none, with the last,
/// and it's told what is short.
pub fn fit(environment: &Environment, machine: &Machine) -> Fit {
    let base = &environment.resources;
    let mut last = None;
    for profile in &environment.profiles {
        let given = given(&over(base, &profile.resources), machine);
        let is_short = given.iter().any(Given::is_short);
        let fit = Fit { profile: Some(profile.name.clone()), given, is_short };
        if !is_short {
            return fit;
        }
        last = Some(fit);
    }
    last.unwrap_or_else(|| {
        let given = given(base, machine);
        let is_short = given.iter().any(Given::is_short);
        Fit { profile: None, given, is_short }
    })
}

/// What a profile asks for counts before what its environment does.
fn over(base: &Resources, profile: &Resources) -> Resources {
    let Resources { cpu, memory, disk, gpu } = profile.clone();
    Resources {
        cpu: cpu.or(base.cpu.clone()),
        memory: memory.or(base.memory.clone()),
        disk: disk.or(base.disk.clone()),
        gpu: gpu.or(base.gpu.clone()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody counts bytes of memory beyond 2^53")]
fn given(resources: &Resources, machine: &Machine) -> Vec<Given> {
    let spare = |all: u64, free: u64, least: u64| free.saturating_sub(least.max(all / 10)) as f64;
    let memory = spare(machine.memory, machine.memory_free, MEMORY_RESERVE);
    let disk = spare(0, machine.disk_free, DISK_RESERVE);
    [
        (Thing::Cpu, &resources.cpu, machine.cpus),
        (Thing::Memory, &resources.memory, memory),
        (Thing::Disk, &resources.disk, disk),
        (Thing::Gpu, &resources.gpu, machine.gpus.len() as f64),
    ]
    .into_iter()
    .filter_map(|(what, amount, there)| {
        let (wanted, minimum) = match amount.as_ref()? {
            Amount::Exactly(quantity) => (value(quantity), value(quantity)),
            Amount::Between { wanted, minimum } => (value(wanted), value(minimum)),
        };
        Some(Given { what, amount: wanted.min(there.max(0.0)), wanted, minimum, there })
    })
    .collect()
}

/// A quantity that was checked when it was read.
#[expect(clippy::cast_precision_loss, reason = "sizes are fitted, not added up")]
fn value(quantity: &Quantity) -> f64 {
    match quantity {
        Quantity::Number(number) => *number,
        Quantity::Size(size) => size.parse::<ByteSize>().map_or(f64::INFINITY, |size| size.0 as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::machine::Gpu;

    const GIB: u64 = 1 << 30;

    fn machine(cpus: f64, memory: u64, gpus: usize) -> Machine {
        let gpu = Gpu { name: "NVIDIA L4".to_owned(), memory: Some(24 * GIB) };
        Machine {
            cpus,
            memory: memory * GIB,
            memory_free: memory * GIB,
            disk_free: 100 * GIB,
            gpus: vec![gpu; gpus],
        }
    }

    fn environment(text: &str) -> Environment {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn the_first_profile_counts_that_the_machine_has_enough_for() {
        let train = environment(
            "name: train\nresources: {memory: 4GiB}\nprofiles:\n- {name: gpu, resources: {gpu: 1, memory: 8GiB}}\n- {name: cpu, resources: {cpu: {wanted: 8, minimum: 2}}}\n",
        );
        let with = |machine: &Machine| fit(&train, machine);
        assert_eq!(with(&machine(4.0, 16, 1)).profile.as_deref(), Some("gpu"));
        // Too little memory beside the graphics processor; none of that one.
        for machine in [machine(4.0, 7, 1), machine(4.0, 64, 0)] {
            let fit = with(&machine);
            assert_eq!((fit.profile.as_deref(), fit.is_short), (Some("cpu"), false));
            let cpu = fit.given.iter().find(|given| given.what == Thing::Cpu).unwrap();
            assert!(
                (cpu.amount - 4.0).abs() < 0.01 && (cpu.wanted - 8.0).abs() < 0.01,
                "as many as there are"
            );
        }
    }

    #[test]
    fn what_is_short_is_said_exactly() {
        let large = environment(
            "name: a\nresources: {memory: 64GiB, gpu: {wanted: 2, minimum: 1}, cpu: 2, disk: 10GiB}\n",
        );
        let fit = fit(&large, &machine(2.0, 16, 0));
        assert!(fit.is_short);
        let short: Vec<_> =
            fit.given.iter().filter(|given| given.is_short()).map(|given| given.what).collect();
        assert_eq!(short, [Thing::Memory, Thing::Gpu]);
        let memory = &fit.given[1];
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let expected = (16 * GIB - 16 * GIB / 10) as f64;
        assert!((memory.there - expected).abs() < 1.0, "a tenth is kept back: {memory:?}");
        // Wanted, but not needed.
        let optional = environment("name: a\nresources: {gpu: {wanted: 1, minimum: 0}}\n");
        let fit = super::fit(&optional, &machine(2.0, 16, 0));
        assert!(!fit.is_short && fit.given[0].amount.abs() < 0.01);
        let nothing = super::fit(&environment("name: a\n"), &machine(1.0, 1, 0));
        assert!(!nothing.is_short && nothing.given.is_empty() && nothing.profile.is_none());
    }
}

//! Who may do what with a workspace: the rules, without who keeps them and who asks.

mod policy;
mod rights;

pub use policy::{Access, Grant, Group, GroupError, Policy, Standing, Whom, WhomError};
pub use rights::{Right, Rights, RightsError};

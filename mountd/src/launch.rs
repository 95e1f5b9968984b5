//! stub
use crate::node::Node;
use twinshare::api::{LaunchPlan, LaunchRequest, Problem};
pub(crate) async fn plan(_: &Node, _: LaunchRequest) -> Result<LaunchPlan, Problem> {
    Err(Problem::failed("not yet"))
}

use qrcode::{QrCode, render::unicode::Dense1x2};
use serde_json::json as value;
use twinshare::peer::{fingerprint, fingerprint_words};

use super::{
    failure::Failure,
    output::{fields, json},
    session::Session,
};

/// Shows who this node is, for people to compare.
pub(super) async fn id(session: &Session, as_json: bool) -> Result<String, Failure> {
    let node = session.client()?.status().await?.node;
    if as_json {
        let (fingerprint, words) = (fingerprint(node), fingerprint_words(node));
        return json(&value!({"node": node, "fingerprint": fingerprint, "words": words}));
    }
    let text = fields(&[
        ("node", node.to_string()),
        ("fingerprint", fingerprint(node)),
        ("in words", fingerprint_words(node)),
    ]);
    Ok(text + &picture(&format!("twinshare:{node}"))?)
}

/// A text as a QR code for terminals, which show light on dark.
fn picture(text: &str) -> Result<String, Failure> {
    let code = QrCode::new(text).map_err(|error| Failure::new(format!("no QR code can be made: {error}")))?;
    let light_on_dark =
        code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(format!("\n{light_on_dark}\n"))
}

//! What of a folder would be shared, without sharing it.

use std::{collections::BTreeMap, io, path::Path};

use super::{
    cache::Known,
    item::ItemKind,
    model::{FolderId, Model, Scanned},
    place::{Root, below},
    rules::Reason,
    scan::Scanner,
};
use crate::types::Name;

/// What of a folder would be shared.
#[derive(Debug, Default)]
pub struct Listing {
    /// All paths below the folder, with `/` between the names; folders come before what is in them.
    pub paths: Vec<Vec<u8>>,
    /// Bytes in the files.
    pub bytes: u64,
    /// How many names are left out for which reason; what is below a folder that is left out isn't counted.
    pub left_out: BTreeMap<Reason, u64>,
}

/// Looks through a folder as if it were to be shared; `own` are folders of this node, which aren't.
pub fn listing(folder: &Path, own: &[&Path]) -> io::Result<Listing> {
    let root = Root::new(folder.to_path_buf());
    let own: Vec<_> = own.iter().filter_map(|own| below(folder, own)).collect();
    let scanner = Scanner {
        root: &root,
        own: &own,
        user: rustix::process::geteuid().as_raw(),
        known: &Known::nothing(),
        watch: None,
        model: &Model::new(),
    };
    let mut listing = Listing::default();
    take(scanner.scan(FolderId::ROOT, true)?, &mut Vec::new(), &mut listing);
    Ok(listing)
}

fn take(scanned: Scanned, path: &mut Vec<Name>, listing: &mut Listing) {
    for (_, reason) in &scanned.left_out {
        *listing.left_out.entry(*reason).or_default() += 1;
    }
    let mut inside = scanned.inside.into_iter().peekable();
    for (place, item) in scanned.items.into_iter().enumerate() {
        path.push(item.name);
        listing.paths.push(Name::join(path));
        if let ItemKind::File { size, .. } = item.kind {
            listing.bytes = listing.bytes.saturating_add(size);
        }
        if let Some((_, folder)) = inside.next_if(|(at, _)| *at == place) {
            take(folder, path, listing);
        }
        path.pop();
    }
}

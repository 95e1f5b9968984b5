use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time to the nanosecond, before or after 1970, as `stat` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z, rounded down.
    pub seconds: i64,
    /// Nanoseconds past `seconds`: 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// In CBOR: an array of both numbers.
impl<C> minicbor::Encode<C> for Timestamp {
    fn encode<W: minicbor::encode::Write>(
        &self,
        to: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        to.array(2)?.i64(self.seconds)?.u32(self.nanoseconds)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Timestamp {
    fn decode(from: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        from.array()?;
        Ok(Self { seconds: from.i64()?, nanoseconds: from.u32()?.min(999_999_999) })
    }
}

impl From<SystemTime> for Timestamp {
    /// Times that no clock shows become the nearest that can be written down.
    fn from(time: SystemTime) -> Self {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self { seconds: seconds(since), nanoseconds: since.subsec_nanos() },
            Err(error) => {
                let before = error.duration();
                match before.subsec_nanos() {
                    0 => Self { seconds: -seconds(before), nanoseconds: 0 },
                    nanoseconds => {
                        Self { seconds: -seconds(before) - 1, nanoseconds: 1_000_000_000 - nanoseconds }
                    }
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    /// Times beyond what the system can represent become 1970.
    fn from(time: Timestamp) -> Self {
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let base =
            if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanoseconds.into())))
            .unwrap_or(UNIX_EPOCH)
    }
}

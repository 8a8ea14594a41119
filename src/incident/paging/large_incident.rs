//! An incident that is larger than what we take of a page: it is isolated by its own time, and its beginning is stored.

use chrono::TimeDelta;

use super::window_reader::WindowReader;
use super::{PageSummary, Plan, Reader};
use crate::error::{Peer, SyncError};
use crate::incident::window::{Window, floor_to_second};

impl Plan {
    /// Takes a page that was cut before it showed anything new. The window is cut around the second of the row that did not fit,
    /// which is then read alone; where that second is all that is left, in pieces.
    pub(super) fn accept_too_large(
        &mut self,
        mut reader: WindowReader,
        page: &PageSummary,
    ) -> Result<Option<chrono::DateTime<chrono::Utc>>, SyncError> {
        let bytes_max = page.cut.map_or(0, |cut| cut.bytes_max);
        let too_large = SyncError::BodyTooLarge { peer: Peer::from(self.source), bytes_max };
        let error = page.alerts_failure.clone().unwrap_or(too_large);
        reader.link = None;
        if let Some(reason) = reader.row_by_row.as_mut() {
            // Its beginning is on the page, and is stored.
            *reason = (&error).into();
            reader.pages += 1;
            (reader.skip, reader.top) = (reader.skip + page.rows.len().max(1), 1);
            self.current = Some(Reader::Window(reader));
            return Ok(None);
        }
        let next = page.cut.and_then(|cut| cut.next).or_else(|| page.rows.last().copied());
        let Some(second) = next.and_then(|row| row.updated).map(floor_to_second) else {
            return if self.window_failed(reader, &error) { Ok(None) } else { Err(error) };
        };
        let mut parts = vec![reader.window];
        for edge in [second, second + TimeDelta::seconds(1)] {
            let last = parts.pop().unwrap_or(reader.window);
            let is_inside =
                last.from.is_some_and(|from| from < edge) && last.to.is_some_and(|to| edge < to);
            parts.extend(if is_inside {
                vec![last.split_at(edge).0, last.split_at(edge).1]
            } else {
                vec![last]
            });
        }
        if parts.len() > 1 {
            self.pending.extend(parts.into_iter().rev());
            self.current = self.next_window();
            return Ok(None);
        }
        let is_bounded = matches!(reader.window, Window { from: Some(_), to: Some(_), .. });
        if !is_bounded || !self.may_leave_out() || !self.count_failure() {
            return Err(error);
        }
        let reason = (&error).into();
        let pieces = WindowReader::of_pieces(reader.window, reason, self.source, self.listing);
        self.current = Some(Reader::Window(pieces));
        Ok(None)
    }
}

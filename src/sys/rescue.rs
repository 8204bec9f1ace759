//! What is still done when this process panics: the one look at memory that somebody else is in the middle of changing.
//!
//! A panic hook runs on top of the code that panicked. It sees that code's data as it was left: each field is valid, but
//! together they may say what was never so. What is made of it must bear that.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic;
use std::ptr::NonNull;

use super::process;

thread_local! {
    /// Whether the look is being taken.
    static RESCUING: Cell<bool> = const { Cell::new(false) };
}

/// A value that is looked at when this process panics.
pub struct Watched<T: 'static>(NonNull<T>);

impl<T: 'static> Watched<T> {
    /// When this process panics, `tell` gets the message, and then `rescue` the value; if that comes back the process
    /// aborts. A child that it has forked only tells. One at a time.
    pub fn new(value: T, tell: fn(&str), rescue: fn(&T)) -> Watched<T> {
        let place = NonNull::from(Box::leak(Box::new(value)));
        let (address, owner) = (place.as_ptr().expose_provenance(), process::pid());
        panic::set_hook(Box::new(move |what| {
            tell(&what.to_string());
            // Not again for a panic of the rescue itself.
            if process::pid() != owner || RESCUING.replace(true) {
                return;
            }
            // SAFETY: the value is there until `drop`, which takes this hook away. Whoever is changing it never goes on,
            // since the process ends here, so nothing is changed while this reference lives.
            rescue(unsafe { &*std::ptr::with_exposed_provenance::<T>(address) });
            std::process::abort();
        }));
        Watched(place)
    }
}

impl<T> Deref for Watched<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: ours alone (see `new`) until `drop`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Watched<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: ours alone (see `new`) until `drop`.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = panic::take_hook();
        }
        // SAFETY: it came out of a box, and nobody else has it: the hook is gone.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Where a part of a watched value is that is lent out of its place.
pub struct Whereabouts<T>(Option<NonNull<T>>);

impl<T> Whereabouts<T> {
    pub const UNKNOWN: Whereabouts<T> = Whereabouts(None);

    /// Of something that stays where it is until this is overwritten.
    pub fn of(part: &T) -> Whereabouts<T> {
        Whereabouts(Some(NonNull::from(part)))
    }

    /// Nothing, except for a rescue.
    pub fn look(&self) -> Option<&T> {
        if !RESCUING.get() {
            return None;
        }
        // SAFETY: `of` was promised that it is still there, and whoever is changing it never goes on (see `Watched`).
        self.0.map(|place| unsafe { place.as_ref() })
    }
}

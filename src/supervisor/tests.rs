//! What the supervisor promises, told as transcripts of small worlds, and as rules that no random world breaks.

use super::world::*;

//! TEMPORARY until the key lands.
use super::Program;
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Structure(String);
impl Program {
    pub(crate) fn structure(&self) -> Structure {
        Structure(format!(
            "{:?}",
            (&self.nodes, &self.layout, &self.alive, self.update)
        ))
    }
}

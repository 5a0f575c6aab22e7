//! Which file imports which, by the paths in the code of a crate.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, ItemMod, ItemUse, Macro, UseTree, Visibility};

use super::Source;

/// The index of a source.
pub type File = usize;

/// A path to a module or an item, in parts.
type Names = Vec<String>;

/// A module: its file, and the targets of names that `use` brings in.
struct Module {
    file: File,
    uses: BTreeMap<String, Names>,
}

/// A path in a source.
struct Mention {
    file: File,
    line: usize,
    module: Names,
    path: Names,
    /// Whether it is a `use` of everything in a module.
    everything: bool,
}

/// The modules of a crate and the paths in its code.
#[derive(Default)]
pub struct Crate {
    modules: BTreeMap<Names, Module>,
    mentions: Vec<Mention>,
}

/// One file imports another.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    pub from: File,
    pub to: File,
    pub line: usize,
}

impl Crate {
    pub fn read(sources: &[Source]) -> Self {
        let mut of = Self::default();
        for (file, source) in sources.iter().enumerate() {
            let parsed = syn::parse_file(&source.text);
            let parsed = parsed.unwrap_or_else(|error| panic!("{}: {error}", source.path));
            let mut reader = Reader {
                of: &mut of,
                file,
                module: vec![],
            };
            reader.enter(source.module(), |reader| reader.visit_file(&parsed));
        }
        of
    }

    /// The file of the item that `path` names in `module`, and whether that is a module; `None` if it is in
    /// another crate.
    fn find(&self, module: &[String], path: &[String]) -> Option<(File, bool)> {
        let here = self.modules.get(module)?;
        let Some((first, rest)) = path.split_first() else {
            return Some((here.file, true));
        };
        let child = [module, &path[..1]].concat();
        let is_child = self.modules.contains_key(&child);
        match (first.as_str(), here.uses.get(first)) {
            ("crate", _) => self.find_below(&[], rest),
            ("self", _) => self.find_below(module, rest),
            ("super", _) => self.find_below(module.split_last()?.1, rest),
            // A module and an item may have the same name: longer paths lead through the module.
            _ if is_child && !rest.is_empty() => self.find_below(&child, rest),
            // The crate from which an item of the same name comes.
            (_, Some(target)) if target[0] == *first && !is_child => None,
            (_, Some(target)) => self.find(module, &[target, rest].concat()),
            _ if is_child => self.find_below(&child, rest),
            _ => None,
        }
    }

    /// As [`Self::find`] for a path below `module`, where a name that is neither a module nor brought in is
    /// an item.
    fn find_below(&self, module: &[String], path: &[String]) -> Option<(File, bool)> {
        let here = self.modules.get(module)?;
        let Some(first) = path.first() else {
            return Some((here.file, true));
        };
        let is_child = self.modules.contains_key(&[module, &path[..1]].concat());
        match first == "super" || is_child || here.uses.contains_key(first) {
            true => self.find(module, path),
            false => Some((here.file, false)),
        }
    }

    /// The imports of all files, each once, at its first line.
    pub fn imports(&self) -> Vec<Import> {
        let mut lines: BTreeMap<(File, File), usize> = BTreeMap::new();
        for mention in &self.mentions {
            // A module is imported for its items, which are mentioned separately.
            if let Some((to, is_module)) = self.find(&mention.module, &mention.path)
                && to != mention.file
                && (mention.everything || !is_module)
            {
                let line = lines.entry((mention.file, to)).or_insert(mention.line);
                *line = mention.line.min(*line);
            }
        }
        let import = |((from, to), line)| Import { from, to, line };
        lines.into_iter().map(import).collect()
    }
}

/// Reads one file.
struct Reader<'a> {
    of: &'a mut Crate,
    file: File,
    module: Names,
}

impl Reader<'_> {
    fn enter(&mut self, module: Names, read: impl FnOnce(&mut Self)) {
        let new = Module {
            file: self.file,
            uses: BTreeMap::new(),
        };
        self.of.modules.insert(module.clone(), new);
        let outer = std::mem::replace(&mut self.module, module);
        read(self);
        self.module = outer;
    }

    fn mention(&mut self, path: Names, line: usize, everything: bool) {
        self.of.mentions.push(Mention {
            file: self.file,
            line,
            module: self.module.clone(),
            path,
            everything,
        });
    }

    /// Records what a `use` brings in; a re-export is no import of this file.
    fn bring(&mut self, tree: &UseTree, before: &[String], exports: bool) {
        let with = |name: &Ident| match name == "self" && !before.is_empty() {
            true => before.to_vec(),
            false => [before, &[name.to_string()]].concat(),
        };
        let (name, known_as) = match tree {
            UseTree::Path(path) => return self.bring(&path.tree, &with(&path.ident), exports),
            UseTree::Group(group) => {
                return group
                    .items
                    .iter()
                    .for_each(|item| self.bring(item, before, exports));
            }
            UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                return self.mention(before.to_vec(), line, true);
            }
            UseTree::Name(name) => (&name.ident, None),
            UseTree::Rename(rename) => (&rename.ident, Some(rename.rename.to_string())),
        };
        let path = with(name);
        if !exports {
            self.mention(path.clone(), name.span().start().line, false);
        }
        let known_as = known_as.or_else(|| path.last().cloned());
        let module = self.of.modules.get_mut(&self.module);
        if let (Some(known_as), Some(module)) = (known_as, module) {
            module.uses.insert(known_as, path);
        }
    }

    /// Paths of two and more names in the arguments of a macro.
    fn scan(&mut self, tokens: TokenStream) {
        let (mut path, mut colons): (Vec<Ident>, usize) = (vec![], 0);
        let mut paths = vec![];
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        paths.push(std::mem::take(&mut path));
                    }
                    path.push(ident);
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.scan(group.stream());
                    paths.push(std::mem::take(&mut path));
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => paths.push(std::mem::take(&mut path)),
            }
        }
        paths.push(path);
        for path in paths.into_iter().filter(|path| path.len() > 1) {
            let line = path[0].span().start().line;
            self.mention(path.iter().map(Ident::to_string).collect(), line, false);
        }
    }
}

impl<'a> Visit<'a> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !is_for_tests(&item.attrs) && item.content.is_some() {
            let module = [&self.module[..], &[item.ident.to_string()]].concat();
            self.enter(module, |reader| visit::visit_item_mod(reader, item));
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        if !is_for_tests(&item.attrs) {
            let exports = !matches!(item.vis, Visibility::Inherited);
            self.bring(&item.tree, &[], exports);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if let (None, Some(first)) = (&path.leading_colon, path.segments.first()) {
            let names = path.segments.iter().map(|segment| segment.ident.to_string());
            self.mention(names.collect(), first.ident.span().start().line, false);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, of: &'a Macro) {
        self.scan(of.tokens.clone());
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let argument = attribute.parse_args::<Ident>();
        attribute.path().is_ident("cfg") && argument.is_ok_and(|argument| argument == "test")
    })
}

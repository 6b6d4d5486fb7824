//! What a statement did: the object that it is about, and the tables that it made or changed.

use pgrx::pg_sys;

use crate::pg::context::{is_permanent, persistence};
use crate::pg::encoding;
use crate::pg::relcache::{c_text, qualified, schema_name};
use crate::pg::{guard, list};

/// Relations beyond these are not listed.
const MAX_RELATIONS: usize = 1024;
/// Names of dropped objects are put together for so many only: the last one dropped is the one that the statement names.
const MAX_DROPPED_NAMES: u32 = 64;

/// `pg_policy`, `pg_rewrite` and `pg_statistic_ext`, which pgrx does not name, or not for every major.
const POLICIES: u32 = 3256;
const RULES: u32 = 2618;
const STATISTICS: u32 = 3381;

/// What a statement made, altered and dropped.
#[derive(Clone, Default)]
pub struct Touched {
    /// The relation that the statement names, before it runs.
    named: Option<pg_sys::Oid>,
    /// The statement's object is the one that it makes, not the relation that it names.
    about_new_object: bool,
    /// Class of the objects that the statement is about; InvalidOid: any.
    class: pg_sys::Oid,
    /// The first object of that class that was made, or else altered.
    made: Option<(pg_sys::Oid, pg_sys::Oid)>,
    altered: Option<(pg_sys::Oid, pg_sys::Oid)>,
    /// The statement makes a table or a view, and with it sequences and indexes.
    makes_table: bool,
    /// Type and name of what is dropped.
    dropped: Option<(String, String)>,
    drop_names: u32,
    /// A table that is being made, and what it will be called: it cannot be looked up yet.
    new_table: Option<(pg_sys::Oid, String)>,
    /// The statement makes temporary objects.
    temporary: bool,
    relations: Vec<pg_sys::Oid>,
    anything: bool,
}

impl Touched {
    /// Nothing yet.
    ///
    /// # Safety
    /// A valid utility statement.
    pub unsafe fn new(statement: *mut pg_sys::Node, named: Option<pg_sys::Oid>) -> Self {
        use pg_sys::NodeTag as Tag;
        let mut touched = Self {
            named,
            class: pg_sys::InvalidOid,
            ..Self::default()
        };
        // SAFETY: the tag says what the pointer may be cast to.
        unsafe {
            match (*statement).type_ {
                Tag::T_CreateTableAsStmt => {
                    touched.class = pg_sys::RelationRelationId;
                    let create = &*statement.cast::<pg_sys::CreateTableAsStmt>();
                    let range = (*create.into).rel;
                    let namespace = pg_sys::RangeVarGetCreationNamespace(range);
                    touched.temporary = (*range).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP
                        || pg_sys::isTempOrTempToastNamespace(namespace);
                    let name = qualified(&schema_name(namespace), &c_text((*range).relname));
                    touched.new_table = Some((pg_sys::InvalidOid, name));
                }
                Tag::T_CreateStmt | Tag::T_ViewStmt => {
                    touched.class = pg_sys::RelationRelationId;
                    touched.makes_table = true;
                }
                Tag::T_IndexStmt => {
                    touched.class = pg_sys::RelationRelationId;
                    touched.about_new_object = true;
                }
                Tag::T_CreateExtensionStmt => touched.class = pg_sys::ExtensionRelationId,
                Tag::T_CreateTrigStmt => touched.about_new_object = true,
                Tag::T_RuleStmt | Tag::T_CreatePolicyStmt | Tag::T_AlterPolicyStmt => touched.about_new_object = true,
                Tag::T_DropStmt => touched.drops(&*statement.cast()),
                _ => {}
            }
        }
        touched
    }

    /// DROP names relations, which are there now and not later; of anything else the hook will see the last one.
    unsafe fn drops(&mut self, drop: &pg_sys::DropStmt) {
        use pg_sys::ObjectType as Object;
        let kind = match drop.removeType {
            Object::OBJECT_TABLE => "table",
            Object::OBJECT_INDEX => "index",
            Object::OBJECT_VIEW => "view",
            Object::OBJECT_MATVIEW => "materialized view",
            Object::OBJECT_SEQUENCE => "sequence",
            Object::OBJECT_FOREIGN_TABLE => "foreign table",
            _ => {
                self.class = class_of(drop.removeType);
                return;
            }
        };
        // SAFETY: relations are named by lists of strings; look-ups inside a transaction.
        let oids: Vec<pg_sys::Oid> = unsafe {
            list::pointers::<pg_sys::List>(drop.objects)
                .into_iter()
                .filter_map(|name| guard::named(pg_sys::makeRangeVarFromNameList(name)))
                .collect()
        };
        self.class = pg_sys::RelationRelationId;
        self.temporary = !oids.is_empty() && !oids.iter().any(|oid| is_permanent(*oid));
        let names: Vec<String> = oids.iter().map(|oid| relation_name(*oid)).collect();
        self.dropped = Some((kind.into(), names.join(", ")));
        self.drop_names = MAX_DROPPED_NAMES;
    }

    /// From the object access hook. True for the table of CREATE TABLE AS.
    pub fn note(
        &mut self,
        access: pg_sys::ObjectAccessType::Type,
        class: pg_sys::Oid,
        object: pg_sys::Oid,
        part: i32,
    ) -> bool {
        use pg_sys::ObjectAccessType as Access;
        let relation = class == pg_sys::RelationRelationId;
        let wanted = self.class == pg_sys::InvalidOid || self.class == class;
        let mut is_new_table = false;
        match access {
            Access::OAT_POST_CREATE => {
                if relation
                    && let Some((new, _)) = &mut self.new_table
                    && *new == pg_sys::InvalidOid
                {
                    *new = object;
                    is_new_table = true;
                }
                if wanted && part == 0 && self.made.is_none() {
                    self.made = Some((class, object));
                }
            }
            Access::OAT_POST_ALTER if wanted && self.altered.is_none() => self.altered = Some((class, object)),
            Access::OAT_POST_ALTER => {}
            Access::OAT_DROP => {
                if class == self.class && part == 0 && self.drop_names < MAX_DROPPED_NAMES {
                    self.drop_names += 1;
                    self.dropped = name_of(class, object).or(self.dropped.take());
                }
            }
            _ => return false,
        }
        self.anything = true;
        let stays = access != Access::OAT_DROP || part != 0;
        if relation && stays && self.relations.len() < MAX_RELATIONS && !self.relations.contains(&object) {
            self.relations.push(object);
        }
        is_new_table
    }

    /// Whether the statement has touched nothing that the server tells about.
    pub fn is_nothing(&self) -> bool {
        !self.anything
    }

    /// Whether it concerns temporary objects only: they are the session's.
    pub fn is_temporary(&self) -> bool {
        let of_session = |oid: pg_sys::Oid| persistence(oid) == Some(pg_sys::RELPERSISTENCE_TEMP);
        let temporary_name = |(_, name): (String, String)| name.starts_with("pg_temp.");
        self.temporary
            || self.named.is_some_and(of_session)
            || self.made.is_some_and(|(class, object)| {
                class == pg_sys::RelationRelationId && of_session(object)
                    || class != pg_sys::RelationRelationId && name_of(class, object).is_some_and(temporary_name)
            })
            || self.dropped.clone().is_some_and(temporary_name)
    }

    /// Type and name of the object that the statement is about; empty when not known.
    pub fn main_object(&self) -> (String, String) {
        if let Some((_, name)) = &self.new_table {
            let made = self.made.and_then(|(class, object)| name_of(class, object));
            return made.unwrap_or_else(|| ("table".into(), name.clone()));
        }
        if let Some(dropped) = &self.dropped {
            return dropped.clone();
        }
        if self.makes_table {
            let is_auxiliary = |oid: &&pg_sys::Oid| {
                // SAFETY: a look-up inside a transaction.
                let kind = unsafe { pg_sys::get_rel_relkind(**oid) } as u8;
                matches!(
                    kind,
                    pg_sys::RELKIND_SEQUENCE | pg_sys::RELKIND_INDEX | pg_sys::RELKIND_TOASTVALUE
                )
            };
            if let Some(table) = self.relations.iter().find(|oid| !is_auxiliary(oid)) {
                return name_of(pg_sys::RelationRelationId, *table).unwrap_or_default();
            }
        }
        let named = self.named.map(|oid| (pg_sys::RelationRelationId, oid));
        let order = match self.about_new_object {
            true => [self.made, self.altered, named],
            false => [named, self.made, self.altered],
        };
        let known = order.into_iter().flatten();
        known
            .filter_map(|(class, object)| name_of(class, object))
            .next()
            .unwrap_or_default()
    }

    /// Permanent tables that it made or changed and that are there.
    pub fn tables(&self) -> Vec<u32> {
        if let Some((new, _)) = &self.new_table {
            return vec![u32::from(*new)];
        }
        let mut tables = Vec::new();
        for oid in self.named.iter().chain(&self.relations) {
            // SAFETY: a look-up inside a transaction; 0 for what is gone.
            let kind = unsafe { pg_sys::get_rel_relkind(*oid) } as u8;
            let is_table = kind == pg_sys::RELKIND_RELATION || kind == pg_sys::RELKIND_PARTITIONED_TABLE;
            if is_table && is_permanent(*oid) && !tables.contains(&u32::from(*oid)) {
                tables.push(u32::from(*oid));
            }
        }
        tables
    }
}

fn relation_name(oid: pg_sys::Oid) -> String {
    name_of(pg_sys::RelationRelationId, oid).unwrap_or_default().1
}

/// Type and name, as the server's event triggers have them; `None` when it is gone.
fn name_of(class: pg_sys::Oid, object: pg_sys::Oid) -> Option<(String, String)> {
    let address = pg_sys::ObjectAddress {
        classId: class,
        objectId: object,
        objectSubId: 0,
    };
    // SAFETY: look-ups inside a transaction; null for what is not there.
    unsafe {
        let name = pg_sys::getObjectIdentity(&address, true);
        let kind = pg_sys::getObjectTypeDescription(&address, true);
        if name.is_null() || kind.is_null() {
            return None;
        }
        let text = |text: *mut core::ffi::c_char| encoding::to_utf8(std::ffi::CStr::from_ptr(text).to_bytes());
        Some((text(kind), text(name)))
    }
}

/// The catalog that dropped objects of a type are in; InvalidOid: no name is looked for.
fn class_of(kind: pg_sys::ObjectType::Type) -> pg_sys::Oid {
    use pg_sys::ObjectType as Object;
    match kind {
        Object::OBJECT_SCHEMA => pg_sys::NamespaceRelationId,
        Object::OBJECT_EXTENSION => pg_sys::ExtensionRelationId,
        Object::OBJECT_TYPE | Object::OBJECT_DOMAIN => pg_sys::TypeRelationId,
        Object::OBJECT_FUNCTION | Object::OBJECT_PROCEDURE | Object::OBJECT_AGGREGATE | Object::OBJECT_ROUTINE => {
            pg_sys::ProcedureRelationId
        }
        Object::OBJECT_TRIGGER => pg_sys::TriggerRelationId,
        Object::OBJECT_POLICY => pg_sys::Oid::from(POLICIES),
        Object::OBJECT_RULE => pg_sys::Oid::from(RULES),
        Object::OBJECT_PUBLICATION => pg_sys::PublicationRelationId,
        Object::OBJECT_OPERATOR => pg_sys::OperatorRelationId,
        Object::OBJECT_COLLATION => pg_sys::CollationRelationId,
        Object::OBJECT_EVENT_TRIGGER => pg_sys::EventTriggerRelationId,
        Object::OBJECT_STATISTIC_EXT => pg_sys::Oid::from(STATISTICS),
        _ => pg_sys::InvalidOid,
    }
}

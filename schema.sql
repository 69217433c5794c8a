-- Mini Numbers: the data model. These comments are its manual.
--
-- The file is a sequence of versions, each opened by a line "-- version N". A new database runs them all; an older one runs
-- those it lacks, inside one transaction. `pragma user_version` holds the version a database has reached, and
-- `pragma application_id` says that it is one of ours.
--
-- Three ideas carry everything:
--
--   A moment.  The id of a hit is its unix second times 65536 plus its place within that second. Ids therefore sort by time
--              and then by arrival, fit in six bytes, and a period of a report is one range of ids:
--              id >= from << 16 and id < to << 16. The second is id >> 16.
--   A visit    has the id of its first hit, so the moment it began needs no column, and `hits.id = hits.visit_id` finds entries.
--   A text     (path, host, browser, country, property …) is stored once in `texts` and everywhere else is its id. Id 0 is the
--              empty text: the value is not known, or was not stored for the sake of privacy.
--
-- What is never here: an IP address, a user agent, a click id, or a query string other than UTM tags. `visits.visitor` is a keyed
-- hash whose key, in `salts`, is destroyed soon after its epoch ends; from then on nobody can recompute it.
--
-- Large tables are clustered by (site, moment) without a rowid, so a report reads neighbouring pages only.

-- version 1

create table texts (
  id    integer primary key,
  text  text not null unique
);
insert into texts (id, text) values (0, ''), (1, 'pageview'), (2, '(other)');

-- A null setting means: as the instance says.
create table sites (
  id              integer primary key autoincrement,  -- never used again, so old rows cannot join a new site
  domain          text not null unique,               -- lower case, without "www."
  timezone        text not null default 'UTC',        -- an IANA name; days begin at its midnight
  hostnames       text not null default '',           -- further hosts that may report, separated by commas; * is a wildcard
  mode            text check (mode in ('standard', 'strict', 'paranoid')),
  rotation_hours  integer check (rotation_hours between 1 and 8760),
  retention_days  integer check (retention_days >= 0),  -- 0 keeps for ever
  gpc             text check (gpc in ('paranoid', 'drop', 'ignore')),
  created_at      integer not null                    -- unix seconds, as every *_at
);

create table users (
  id             integer primary key autoincrement,
  username       text not null unique,
  password_hash  text not null,                       -- scrypt$n$r$p$salt$hash
  created_at     integer not null
);

-- Secrets are shown once and kept as SHA-256: they are random, so a slow hash would add nothing.
create table sessions (
  token_hash  blob primary key,
  user_id     integer not null references users on delete cascade,
  created_at  integer not null,
  expires_at  integer not null
) without rowid;

create table tokens (
  id          integer primary key,
  name        text not null,
  token_hash  blob not null unique,
  site_id     integer references sites on delete cascade,  -- null: every site
  read_only   integer not null,
  created_at  integer not null
);

-- The keys of visitor hashes, one per site and rotation epoch. A row lives until one visit timeout after ends_at.
create table salts (
  site_id  integer not null,
  epoch    integer not null,                          -- which block of rotation_hours, counted from 0001-01-01 local midnight
  ends_at  integer not null,
  salt     blob not null,
  primary key (site_id, epoch, ends_at)               -- an epoch that was ended early may begin anew
) without rowid;

-- What a visit brought with it from the visitor's side, shared by all visits alike.
create table clients (
  id               integer primary key,
  country          integer not null,                  -- ISO 3166-1 alpha-2
  region           integer not null,
  city             integer not null,
  browser          integer not null,
  browser_version  integer not null,
  os               integer not null,
  os_version       integer not null,
  device           integer not null,                  -- Desktop, Mobile, Tablet, TV
  language         integer not null,                  -- primary subtag of Accept-Language
  screen           integer not null,                  -- class of width: Mobile, Tablet, Laptop, Desktop
  unique (country, region, city, browser, browser_version, os, os_version, device, language, screen)
);

-- Where a visit came from, shared by all visits alike.
create table origins (
  id            integer primary key,
  channel       integer not null,
  source        integer not null,
  referrer      integer not null,                     -- host and path, never a query
  utm_source    integer not null,
  utm_medium    integer not null,
  utm_campaign  integer not null,
  utm_content   integer not null,
  utm_term      integer not null,
  click_id      integer not null,                     -- the name of a click-id parameter that was present, never its value
  unique (channel, source, referrer, utm_source, utm_medium, utm_campaign, utm_content, utm_term, click_id)
);

create table visits (
  site_id      integer not null,
  id           integer not null,                      -- id of its first hit
  visitor      integer not null,                      -- keyed hash, signed 64 bit
  client_id    integer not null,
  origin_id    integer not null,
  entry_page   integer not null,                      -- page of its first hit
  exit_page    integer not null,                      -- page of its last pageview; of its last hit if it has no pageview
  exit_after   integer,                               -- id of its last pageview minus its own; null if it has none
  exit_id      integer not null as (coalesce(id + exit_after, 0)),
  pageviews    integer not null,
  interactive  integer not null,                      -- 1: has an interactive custom event, so it is no bounce
  duration     integer not null,                      -- seconds from first hit to last sign of life
  live         integer not null,                      -- 1 until the visit is known to be over
  primary key (site_id, id)
) without rowid;

-- Finds the visit in progress of a visitor; holds only the few visits that may still go on.
create unique index visits_live on visits (site_id, visitor) where live = 1;

create table hits (
  site_id   integer not null,
  id        integer not null,
  since     integer not null,                         -- id minus that of the visit: 0 at its first hit, and small ever after
  visit_id  integer not null as (id - since),
  name      integer not null,                         -- 1 is pageview; any other text is a custom event
  page      integer not null,
  hostname  integer not null,
  engaged   integer not null default 0,               -- ms the page was visible and focused
  scroll    integer,                                  -- deepest percentage reached; null: not told
  primary key (site_id, id)
) without rowid;

-- Custom properties: rows only for the hits that have some.
create table props (
  site_id  integer not null,
  hit_id   integer not null,
  key      integer not null,
  value    integer not null,
  primary key (site_id, hit_id, key)
) without rowid;

-- Revenue: rows only for the hits that have some. Integers of the currency's minor unit are exact.
create table revenue (
  site_id   integer not null,
  hit_id    integer not null,
  amount    integer not null,
  currency  text not null,                            -- ISO 4217
  primary key (site_id, hit_id)
) without rowid;

-- What was not counted, and why. Site 0 stands for a site this server does not know.
create table dropped (
  site_id  integer not null,
  day      text not null,                             -- local date of the site
  reason   text not null,
  count    integer not null,
  primary key (site_id, day, reason)
) without rowid;

-- Epochs of more than a day. While one lasts a visitor may come on any of its days, so that days must not be added up.
create table long_epochs (
  site_id    integer not null,
  starts_at  integer not null,                        -- the second of its first hit
  ends_at    integer not null,                        -- or when the next one began, where a change of settings cut it short
  primary key (site_id, starts_at)
) without rowid;

-- What follows is a cache: days that are over, sealed so that reports need not go through their hits. It may be emptied at any
-- time, and is made anew from the tables above.
create table days (
  site_id  integer not null,
  day      integer not null,                          -- the local date's ordinal: 1 is 0001-01-01
  seal     integer not null,                          -- random; who finds another one has been overtaken
  state    integer not null,                          -- 0 being sealed; 1 sealed; 2 sealed, and never to be added to other days;
                                                      -- 4 not sealed, as it has too many hits; 3 by the limit of an older version
  wide     integer not null default 0,                -- bit by bit the dimensions with too many values for rollups
  primary key (site_id, day)
) without rowid;

-- The visits of a sealed day, packed column by column (class Block).
create table columns (
  site_id  integer not null,
  day      integer not null,
  part     integer not null,                          -- 0 visitors with one visit, 1 with several, 2 the seam to the day before;
                                                      -- from 3 on as 0 and 1 by turns, of the others where they are very many
  data     blob not null,
  primary key (site_id, day, part)
) without rowid;

-- The totals of sealed days, and of months of them, by the values of every dimension.
create table rollups (
  site_id    integer not null,
  days       integer not null,                        -- 1, or the length of a month
  day        integer not null,                        -- the first of them
  dimension  integer not null,                        -- its place in DIMENSIONS, from 1; 0 is the whole; 61: goals, see goal_key()
  seam       integer not null,                        -- 1: what to add if the day before is counted too
  value      integer not null,
  visitors   integer not null,
  visits     integer not null,
  pageviews  integer not null,
  events     integer not null,
  entries    integer not null,
  bounces    integer not null,
  duration   integer not null,
  viewed     integer not null,
  engaged    integer not null,
  depth      integer not null,
  scrolled   integer not null,
  exits      integer not null,
  primary key (site_id, days, day, dimension, seam, value)
) without rowid;

-- version 2
-- People: roles, sites, devices, invitations; limits on tokens; settings changed in the browser; and who changed what.

-- A role may all that the next lesser may: owner, admin (sites and people), editor (goals, segments, a site's settings), viewer.
-- Who had an account before there were roles could do everything.
alter table users add column role text not null default 'owner' check (role in ('owner', 'admin', 'editor', 'viewer'));
alter table users add column every_site integer not null default 1;   -- 0: the sites in user_sites only
alter table users add column totp_secret blob;                        -- encrypted by a key that only the password gives; null: no second factor
alter table users add column totp_step integer not null default 0;    -- the time step of the last code taken: none is taken twice

create table user_sites (
  user_id  integer not null references users on delete cascade,
  site_id  integer not null references sites on delete cascade,
  primary key (user_id, site_id)
) without rowid;

create table recovery_codes (
  code_hash  blob primary key,
  user_id    integer not null references users on delete cascade
) without rowid;

-- Whoever is signed in signs in once more: a session now has a number to revoke it by.
drop table sessions;
create table sessions (
  id          integer primary key autoincrement,
  token_hash  blob not null unique,
  user_id     integer not null references users on delete cascade,
  device      text not null,                          -- "Firefox on Linux": never the user agent
  created_at  integer not null,
  seen_at     integer not null,                       -- to within some minutes
  expires_at  integer not null                        -- at the latest; one that is idle ends sooner
);

create table invites (
  id          integer primary key autoincrement,
  code_hash   blob not null unique,
  role        text not null check (role in ('owner', 'admin', 'editor', 'viewer')),
  every_site  integer not null,
  created_by  integer not null references users on delete cascade,
  created_at  integer not null,
  expires_at  integer not null
);

create table invite_sites (
  invite_id  integer not null references invites on delete cascade,
  site_id    integer not null references sites on delete cascade,
  primary key (invite_id, site_id)
) without rowid;

alter table tokens rename to old_tokens;
create table tokens (
  id          integer primary key autoincrement,
  name        text not null,
  token_hash  blob not null unique,
  user_id     integer references users on delete cascade,  -- whose it is: it may no more than they; null: made on the command line
  every_site  integer not null,                            -- 0: the sites in token_sites only
  read_only   integer not null,
  created_at  integer not null,
  expires_at  integer,                                     -- null: never
  used_at     integer                                      -- to within some minutes; null: never
);
create table token_sites (
  token_id  integer not null references tokens on delete cascade,
  site_id   integer not null references sites on delete cascade,
  primary key (token_id, site_id)
) without rowid;
insert into tokens (id, name, token_hash, every_site, read_only, created_at)
  select id, name, token_hash, site_id is null, read_only, created_at from old_tokens;
insert into token_sites (token_id, site_id) select id, site_id from old_tokens where site_id is not null;
drop table old_tokens;

-- Settings of the instance that were changed in the browser. What a flag or a variable gives goes before them.
create table settings (
  name   text primary key,
  value  text not null
) without rowid;

-- Who changed what. Names, not ids: it outlives whoever and whatever it tells of.
create table audit (
  id       integer primary key autoincrement,
  at       integer not null,
  actor    text not null,
  action   text not null,                             -- "site added", "role changed" …
  object   text not null,                             -- the site, person, token, setting, goal, segment, funnel or note
  details  text not null                              -- what it was and is; never a secret
);

-- Notes on the main chart: what happened on a day, or in an hour of it.
create table annotations (
  id       integer primary key autoincrement,
  site_id  integer not null references sites on delete cascade,
  at       text not null,                             -- local to the site: 2026-03-02, or 2026-03-02 14:00:00
  text     text not null,
  author   text not null                              -- a name, which outlives the person
);
create index annotations_of_site on annotations (site_id, at);

-- What people named in their questions. `definition` is JSON as the API speaks it, without the name; filters in it name goals by
-- their name and segments by their id, and what is named so cannot be deleted.
create table goals (
  id          integer primary key autoincrement,
  site_id     integer not null references sites on delete cascade,
  name        text not null,
  definition  text not null,                          -- kind, match, value, at_least, filters
  unique (site_id, name)
);

create table segments (
  id          integer primary key autoincrement,
  site_id     integer not null references sites on delete cascade,
  user_id     integer references users on delete cascade,  -- whose it is; null: shared by all who see the site
  name        text not null,
  definition  text not null                           -- filters
);
create unique index segments_name on segments (site_id, coalesce(user_id, 0), name);

-- version 3
-- Sealed days know the hours of what was seen; those that were sealed without are sealed anew.
delete from rollups;
delete from columns;
delete from days;

-- version 4
-- Steps that visitors take one after the other. The filters of a step name goals and segments as those of segments do.
create table funnels (
  id          integer primary key autoincrement,
  site_id     integer not null references sites on delete cascade,
  name        text not null,
  definition  text not null,                          -- steps, order, window
  unique (site_id, name)
);

-- version 5
-- Sealed days know the ways of visits, hit after hit; those that were sealed without are sealed anew.
delete from rollups;
delete from columns;
delete from days;

//! Random columns and questions: what is found by value is what the values themselves say.

use std::{collections::BTreeMap, fmt, sync::Arc};

use arrow::{
    array::{ArrayRef, FixedSizeBinaryBuilder, ListArray, RecordBatch, UInt64Array},
    datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type},
    util::pretty::pretty_format_batches,
};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::{
    catalog::{Session, TableProvider},
    common::Result,
    datasource::{
        MemTable, TableType,
        listing::PartitionedFile,
        memory::DataSourceExec,
        physical_plan::{
            FileGroup, FileScanConfigBuilder, ParquetSource, parquet::DefaultParquetFileReaderFactory,
        },
    },
    execution::{SessionStateBuilder, object_store::ObjectStoreUrl},
    logical_expr::{Expr, TableProviderFilterPushDown},
    physical_plan::{ExecutionPlan, displayable},
    prelude::SessionContext,
};
use nozzle_core::BlockRange;
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ArrowReaderMetadata, arrow_reader::ArrowReaderOptions},
    basic::{Compression, ZstdLevel},
    file::properties::{WriterProperties, WriterVersion},
    schema::types::ColumnPath,
};
use proptest::{prelude::*, test_runner::Config};

use super::{EqualitySource, EqualitySourceParts, pages, rows::Rows};
use crate::{bounds::block_range, session};

/// A value of a column: few of them, so that they repeat, or of many kinds.
fn value(number: u16, width: usize) -> Vec<u8> {
    number.to_be_bytes().into_iter().cycle().take(width).collect()
}

fn column(values: &[Option<u16>], width: usize) -> ArrayRef {
    let mut builder = FixedSizeBinaryBuilder::new(i32::try_from(width).expect("a width"));
    for number in values {
        match number {
            Some(number) => builder.append_value(value(*number, width)).expect("of the width"),
            None => builder.append_null(),
        }
    }
    Arc::new(builder.finish())
}

#[derive(Debug, Clone)]
struct Form {
    width: usize,
    is_nullable: bool,
    has_dictionary: bool,
    /// Little enough, and values that come later are written as they are.
    dictionary_bytes: usize,
    page_rows: usize,
    version: WriterVersion,
}

fn form() -> impl Strategy<Value = Form> {
    let width = prop_oneof![Just(20), Just(32)];
    let dictionary_bytes = prop_oneof![Just(64), Just(1_000), Just(1_000_000)];
    let version = prop_oneof![Just(WriterVersion::PARQUET_1_0), Just(WriterVersion::PARQUET_2_0)];
    (width, any::<bool>(), any::<bool>(), dictionary_bytes, 1..600_usize, version).prop_map(
        |(width, is_nullable, has_dictionary, dictionary_bytes, page_rows, version)| Form {
            width,
            is_nullable,
            has_dictionary,
            dictionary_bytes,
            page_rows,
            version,
        },
    )
}

fn properties(form: &Form, group_rows: usize) -> WriterProperties {
    WriterProperties::builder()
        .set_writer_version(form.version)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(form.has_dictionary)
        // The newer version would write other values in an encoding that is left to the scan.
        .set_column_encoding(ColumnPath::from("key"), parquet::basic::Encoding::PLAIN)
        .set_dictionary_page_size_limit(form.dictionary_bytes)
        .set_data_page_row_count_limit(form.page_rows)
        .set_write_batch_size(64)
        .set_max_row_group_row_count(Some(group_rows))
        .set_bloom_filter_enabled(true)
        .build()
}

fn written(batch: &RecordBatch, properties: WriterProperties) -> Bytes {
    let mut file = vec![];
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(batch).expect("rows");
    writer.close().expect("a file");
    Bytes::from(file)
}

/// Numbers in runs, of few or many kinds, some of them missing.
fn numbers(is_nullable: bool) -> impl Strategy<Value = Vec<Option<u16>>> {
    let kinds = prop_oneof![Just(1_u16), Just(2), Just(9), Just(300), Just(u16::MAX)];
    kinds.prop_flat_map(move |kinds| {
        let one = if is_nullable {
            proptest::option::weighted(0.8, 0..kinds).boxed()
        } else {
            (0..kinds).prop_map(Some).boxed()
        };
        let run = (one, prop_oneof![4 => Just(1_usize), 1 => 1..200_usize]);
        proptest::collection::vec(run, 1..700).prop_map(|runs| {
            runs.into_iter().flat_map(|(number, times)| std::iter::repeat_n(number, times)).collect()
        })
    })
}

proptest! {
    #![proptest_config(Config { cases: 96, ..Config::default() })]

    #[test]
    fn pages_tell_what_values_tell(
        (form, numbers) in form().prop_flat_map(|form| {
            let numbers = numbers(form.is_nullable);
            (Just(form), numbers)
        }),
        sought in proptest::collection::btree_set(prop_oneof![0..10_u16, any::<u16>()], 1..5),
        taken in any::<prop::sample::Index>(),
        among in proptest::option::of((
            proptest::collection::vec(any::<bool>(), 1..8),
            prop_oneof![Just(500_usize), Just(1)],
        )),
    ) {
        let mut sought = sought;
        sought.extend(numbers[taken.index(numbers.len())]);
        let schema = Arc::new(Schema::new(vec![Field::new(
            "key",
            DataType::FixedSizeBinary(form.width as i32),
            form.is_nullable,
        )]));
        let batch = RecordBatch::try_new(schema, vec![column(&numbers, form.width)]).expect("a batch");
        let file = written(&batch, properties(&form, usize::MAX));
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).expect("a footer");
        let chunk = metadata.metadata().row_group(0).column(0);
        prop_assert!(pages::is_readable(chunk, form.width) && !pages::is_readable(chunk, form.width + 1));
        let (start, length) = chunk.byte_range();
        let bytes = file.slice(start as usize..(start + length) as usize);
        // Runs of rows, or each by itself, of which some are asked for.
        let among: Option<Rows> = among.map(|(bits, run)| {
            (0..numbers.len()).map(|row| bits[row / run % bits.len()]).collect()
        });
        let values: Vec<Vec<u8>> = sought.iter().map(|number| value(*number, form.width)).collect();
        let counts = pages::counted(bytes.clone(), chunk, numbers.len(), among.as_ref(), form.width)
            .expect("it is read")
            .expect("the encodings are known");
        let mut counted = BTreeMap::new();
        for (value, times) in counts.values.chunks(form.width).zip(&counts.times) {
            *counted.entry(Some(value.to_vec())).or_insert(0) += times;
        }
        if counts.nulls > 0 {
            counted.insert(None, counts.nulls);
        }
        let mut times = BTreeMap::new();
        for (row, number) in numbers.iter().enumerate() {
            if among.as_ref().is_none_or(|among| among.any(row, 1)) {
                *times.entry(number.map(|number| value(number, form.width))).or_insert(0) += 1;
            }
        }
        prop_assert_eq!(counted, times);
        let mut found = pages::matching(bytes, chunk, numbers.len(), among.as_ref(), &values)
            .expect("it is read")
            .expect("the encodings are known");
        let mut expected: Rows =
            numbers.iter().map(|number| number.is_some_and(|number| sought.contains(&number))).collect();
        if let Some(among) = &among {
            found.keep(among);
            expected.keep(among);
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn bits_are_spread_over_those_that_are_set(bits in proptest::collection::vec(any::<(bool, bool)>(), 0..400)) {
        let room: Rows = bits.iter().map(|(room, _)| *room).collect();
        let values: Rows = bits.iter().filter(|(room, _)| *room).map(|(_, value)| *value).collect();
        let expected: Rows = bits.iter().map(|(room, value)| *room && *value).collect();
        prop_assert_eq!(room.spread(&values), expected.clone());
        prop_assert_eq!(expected.pack(&room), values);
    }
}

/// Files of one store, scanned as the tables of a dataset are.
struct Files {
    store: Arc<InMemory>,
    files: Vec<Path>,
    schema: SchemaRef,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files", self.files.len())
    }
}

#[async_trait]
impl TableProvider for Files {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let readers = Arc::new(DefaultParquetFileReaderFactory::new(Arc::clone(&self.store) as _));
        let scan = ParquetSource::new(Arc::clone(&self.schema))
            .with_parquet_file_reader_factory(Arc::clone(&readers) as _);
        let range = block_range(filters, &["_block_num"]).unwrap_or_else(|| BlockRange::from(0));
        let parts = EqualitySourceParts { readers, range, sorted_by: "_block_num" };
        let source = EqualitySource::new(Arc::new(scan), parts);
        let mut groups = vec![];
        for file in &self.files {
            let meta = self.store.head(file).await?;
            groups.push(FileGroup::new(vec![PartitionedFile::new_from_meta(meta)]));
        }
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse("memory://")?, Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// The same rows twice: in files, scanned by value, and in memory.
async fn both(form: &Form, numbers: &[Option<u16>], parts: usize) -> SessionContext {
    let config = session::session_config().with_create_default_catalog_and_schema(true);
    let context =
        session::context(SessionStateBuilder::new().with_config(config.with_target_partitions(parts)));
    let key = DataType::FixedSizeBinary(form.width as i32);
    let schema = Arc::new(Schema::new(vec![
        Field::new("_block_num", DataType::UInt64, false),
        Field::new("key", key.clone(), form.is_nullable),
        Field::new("other", key, true),
        Field::new("n", DataType::UInt64, false),
        Field::new_list("list", Field::new_list_field(DataType::UInt64, true), true),
    ]));
    let others: Vec<_> = numbers.iter().rev().map(|number| number.filter(|number| number % 5 != 1)).collect();
    let rows = numbers.len() as u64;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values((0..rows).map(|row| row / 10))),
        column(numbers, form.width),
        column(&others, form.width),
        Arc::new(UInt64Array::from_iter_values(0..rows)),
        Arc::new(ListArray::from_iter_primitive::<UInt64Type, _, _>(
            // The scan refuses filters of a list.
            (0..rows).map(|row| (row % 7 > 0).then(|| vec![Some(row); (row % 3) as usize])),
        )),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch");
    let store = Arc::new(InMemory::new());
    let url = ObjectStoreUrl::parse("memory://").expect("a URL");
    context.runtime_env().register_object_store(url.as_ref(), Arc::clone(&store) as _);
    let mut files = vec![];
    let per_file = numbers.len().div_ceil(3);
    for at in (0..numbers.len()).step_by(per_file) {
        let part = batch.slice(at, per_file.min(numbers.len() - at));
        let name = Path::from(format!("{at:09}.parquet"));
        let file = written(&part, properties(form, 1_000));
        store.put(&name, file.into()).await.expect("it is stored");
        files.push(name);
    }
    context
        .register_table("files", Arc::new(Files { store, files, schema: Arc::clone(&schema) }))
        .expect("a table");
    let memory = MemTable::try_new(schema, vec![vec![batch]]).expect("a table");
    context.register_table("memory", Arc::new(memory)).expect("a table");
    context
}

proptest! {
    #![proptest_config(Config { cases: 24, ..Config::default() })]

    #[test]
    fn scans_by_value_answer_as_any_scan(
        (form, numbers) in form().prop_flat_map(|form| {
            let numbers = numbers(form.is_nullable);
            (Just(form), numbers)
        }),
        sought in proptest::collection::vec(0..10_u16, 3),
        from in 0..600_u64,
        parts in 1..3_usize,
    ) {
        let hex = |number: u16| {
            let bytes = value(number, form.width);
            format!("X'{}'", const_hex::encode(bytes))
        };
        let [a, b, c] = [hex(sought[0]), hex(sought[1]), hex(sought[2])];
        let to = from + 150;
        let questions = [
            format!("SELECT * FROM t WHERE key = {a}"),
            format!("SELECT n FROM t WHERE {a} = key AND other = {b}"),
            format!("SELECT count(*) FROM t WHERE key IN ({a}, {b}, {c}) AND n % 3 = 0"),
            format!("SELECT n, key FROM t WHERE key IN ({a}, {b}, {c}, X'00', {c}) OR other = {a}"),
            format!("SELECT n FROM t WHERE key = {a} AND _block_num BETWEEN {from} AND {to}"),
            format!("SELECT n FROM t WHERE key = {a} ORDER BY n DESC LIMIT 5"),
            format!("SELECT n FROM t WHERE (key = {a} OR key = {b}) ORDER BY _block_num, n LIMIT 7"),
            "SELECT n FROM t WHERE key = X'00'".to_owned(),
            format!("SELECT n FROM t WHERE key <> {a} AND other IS NULL"),
            format!("SELECT n FROM t WHERE NOT (key IN ({a}, {b}, {c}, {a}))"),
            format!("SELECT n FROM t WHERE key = {a} AND n % 3 = 0 AND cardinality(list) > 0"),
            format!("SELECT n FROM t WHERE key = {a} AND cardinality(list) > 1"),
            format!("SELECT count(*) FROM t WHERE n % 2 = 0 AND (other = {b} OR cardinality(list) > 1) AND key = {a}"),
            format!("SELECT n FROM t WHERE key IN ({a}, {b}) AND n % 3 > 0 LIMIT 5"),
            format!("SELECT n FROM t WHERE key = {a} AND n % 3 > 0 AND cardinality(list) > 0 LIMIT 2"),
            "SELECT key, count(*) AS c FROM t GROUP BY key".to_owned(),
            "SELECT other, count(*) AS c, count(1) + 1 AS d FROM t GROUP BY other ORDER BY c DESC, other LIMIT 3".to_owned(),
            "SELECT count(DISTINCT key) AS k FROM t".to_owned(),
            format!("SELECT DISTINCT other FROM t WHERE key IN ({a}, {b}, {c})"),
            "SELECT DISTINCT key FROM t LIMIT 2".to_owned(),
            format!("SELECT other, count(*) AS c FROM t WHERE key = {a} AND n % 3 > 0 GROUP BY other"),
            format!("SELECT key, count(*) AS c FROM t WHERE _block_num BETWEEN {from} AND {to} GROUP BY key"),
            format!("SELECT other, count(*) AS c FROM t WHERE _block_num <= {to} AND key IN ({a}, {b}) GROUP BY other"),
            "SELECT key, count(*) AS c FROM t WHERE cardinality(list) > 1 GROUP BY key HAVING count(*) > 1".to_owned(),
            "SELECT key, count(other) AS c, count(*) FILTER (WHERE n > 9) AS d FROM t GROUP BY key".to_owned(),
            "SELECT key, count(*) AS c FROM t WHERE n < 0 GROUP BY key".to_owned(),
            format!("SELECT x.n, y.n AS m FROM t x JOIN t y ON x.key = y.other AND x.n = y.n WHERE x.key = {a}"),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let context = both(&form, &numbers, parts).await;
            for question in questions {
                let lines_of = async |table: &str, question: &str| {
                    let sql = format!("{question} ").replace(" t ", &format!(" {table} "));
                    let batches = context.sql(&sql).await.expect(&sql).collect().await.expect(&sql);
                    let text = pretty_format_batches(&batches).expect("text").to_string();
                    // A column is as wide as its longest value.
                    text.lines().map(|line| line.replace([' ', '-'], "")).collect::<Vec<String>>()
                };
                let mut answers = [lines_of("files", &question).await, lines_of("memory", &question).await];
                if let Some((without_limit, _)) = question.split_once(" LIMIT ")
                    && !question.contains("ORDER BY")
                {
                    // Any of the rows will do, if they are so many.
                    let all = lines_of("memory", without_limit).await;
                    assert_eq!(answers[0].len(), answers[1].len(), "{question}");
                    assert!(answers[0].iter().all(|line| line.starts_with('+') || all.contains(line)), "{question}");
                    continue;
                }
                if !question.contains("LIMIT") {
                    answers.iter_mut().for_each(|lines| lines.sort());
                }
                assert_eq!(answers[0], answers[1], "{question}");
            }
        });
    }
}

#[tokio::test]
async fn counts_are_made_of_pages_where_they_can_be() {
    let form = Form {
        width: 20,
        is_nullable: true,
        has_dictionary: true,
        dictionary_bytes: 1_000_000,
        page_rows: 100,
        version: WriterVersion::PARQUET_2_0,
    };
    let numbers: Vec<_> = (0..500).map(|number| Some(number % 7)).collect();
    for parts in [1, 2] {
        let context = both(&form, &numbers, parts).await;
        for (sql, is_of_pages) in [
            ("SELECT key, count(*) FROM files GROUP BY key", true),
            ("SELECT count(DISTINCT other) FROM files", true),
            (
                "SELECT DISTINCT key FROM files WHERE other = X'0001000100010001000100010001000100010001'",
                true,
            ),
            (
                "SELECT key AS k, count(*) FROM files WHERE _block_num > 10 GROUP BY k ORDER BY 2 DESC LIMIT 3",
                true,
            ),
            ("SELECT key, sum(n) FROM files GROUP BY key", false),
            ("SELECT key, count(other) FROM files GROUP BY key", false),
            ("SELECT key, other, count(*) FROM files GROUP BY key, other", false),
            ("SELECT key, count(*) FILTER (WHERE n > 3) FROM files GROUP BY key", false),
            ("SELECT n, count(*) FROM files GROUP BY n", false),
            ("SELECT key, count(*) FROM memory GROUP BY key", false),
        ] {
            let plan = context.sql(sql).await.expect(sql).create_physical_plan().await.expect(sql);
            let plan = displayable(plan.as_ref()).indent(false).to_string();
            assert_eq!(plan.contains("CountExec"), is_of_pages, "{sql}\n{plan}");
        }
    }
}

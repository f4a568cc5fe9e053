//! The rows of one block lie in one file, and each part of a scan reads a run of files. So the rows of each block come
//! from one part, and a step that wants them in one needs no other step to share them out anew.

use std::sync::Arc;

use datafusion::{
    common::{
        ScalarValue, SplitPoint,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    datasource::{
        memory::DataSourceExec,
        physical_plan::{FileScanConfig, FileScanConfigBuilder},
    },
    error::Result,
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column},
    physical_optimizer::{PhysicalOptimizerRule, optimizer::PhysicalOptimizer},
    physical_plan::{
        ChildSatisfactionOptions, ChildrenPropertiesMode, Distribution, ExecutionPlan, Partitioning,
        RangePartitioning, ReplaceChildrenOptions,
    },
};

/// The engine's rules, with this one before that which shares rows out.
pub(crate) fn rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let sharing = rules.iter().position(|rule| rule.name() == "EnsureRequirements");
    rules.insert(sharing.unwrap_or(0), Arc::new(Ranges));
    rules
}

/// Tells by which blocks the parts of a scan are cut, where that spares such a step. Elsewhere it would do harm: the
/// parts of a scan that does not tell take files from each other when they are done with their own.
#[derive(Debug)]
struct Ranges;

impl PhysicalOptimizerRule for Ranges {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let parts = config.execution.target_partitions;
        // As the engine decides whether the rows of some blocks may stay together where those of a block and
        // something else need to.
        let is_subset_enough = parts >= config.optimizer.subset_repartition_threshold;
        let options = ChildSatisfactionOptions::new().with_allow_subset(is_subset_enough);
        let told = plan.transform_down(|step| {
            let wanted = step.input_distribution_requirements();
            let ([input], Some(Distribution::KeyPartitioned(_))) =
                (&step.children()[..], wanted.child_distribution(0))
            else {
                return Ok(Transformed::no(step));
            };
            let is_met = |input: &Arc<dyn ExecutionPlan>| -> Result<bool> {
                Ok(wanted.child_satisfaction(0, input.as_ref(), options)?.is_satisfied())
            };
            if is_met(input)? {
                return Ok(Transformed::no(step));
            }
            for input in told(input, parts)? {
                if is_met(&input)? {
                    return Ok(Transformed::yes(over(&step, input)?));
                }
            }
            Ok(Transformed::no(step))
        });
        Ok(told?.data)
    }

    fn name(&self) -> &str {
        "ranges"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn over(step: &Arc<dyn ExecutionPlan>, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let recomputed = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(step).replace_children(vec![input], recomputed)
}

/// A plan whose scan tells of its parts, once for each column that holds their blocks; none if it does not come from
/// one scan of so many parts.
fn told(plan: &Arc<dyn ExecutionPlan>, parts: usize) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
    match plan.children()[..] {
        [] => Ok(told_by_scan(plan.as_ref(), parts)),
        [input] => told(input, parts)?.into_iter().map(|input| over(plan, input)).collect(),
        _ => Ok(vec![]),
    }
}

fn told_by_scan(plan: &dyn ExecutionPlan, parts: usize) -> Vec<Arc<dyn ExecutionPlan>> {
    let source = plan.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
    let Some(scan) = source.and_then(|source| source.downcast_ref::<FileScanConfig>()) else { return vec![] };
    if scan.output_partitioning.is_some() || scan.file_groups.len() < parts.max(2) {
        return vec![];
    }
    let told_by = |ordering: &LexOrdering| {
        let range = Partitioning::Range(cuts(scan, ordering.first())?);
        let told = FileScanConfigBuilder::from(scan.clone()).with_output_partitioning(Some(range));
        Some(DataSourceExec::from_data_source(told.build()) as Arc<dyn ExecutionPlan>)
    };
    scan.output_ordering.iter().filter_map(told_by).collect()
}

/// Where the parts of a scan are cut, by the bounds of one of its columns, if no two files share a value of it.
fn cuts(scan: &FileScanConfig, sorted_by: &PhysicalSortExpr) -> Option<RangePartitioning> {
    let column = sorted_by.expr.downcast_ref::<Column>()?.index();
    let (mut cuts, mut end): (Vec<SplitPoint>, Option<&ScalarValue>) = (vec![], None);
    for (at, group) in scan.file_groups.iter().enumerate() {
        for (nth, file) in group.files().iter().enumerate() {
            let known = file.statistics.as_ref()?.column_statistics.get(column)?;
            let (min, max) = (known.min_value.get_value()?, known.max_value.get_value()?);
            if end.is_some_and(|end| end >= min) {
                return None;
            }
            end = Some(max);
            if at > 0 && nth == 0 {
                cuts.push(SplitPoint::new(vec![min.clone()]));
            }
        }
    }
    RangePartitioning::try_new(LexOrdering::new([sorted_by.clone()])?, cuts).ok()
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, UInt64Array},
        compute::SortOptions,
        datatypes::{DataType, Field, Schema, SchemaRef},
    };
    use async_trait::async_trait;
    use datafusion::{
        catalog::{Session, TableProvider},
        common::{ColumnStatistics, Statistics, stats::Precision},
        datasource::{
            MemTable, TableType,
            listing::PartitionedFile,
            physical_plan::{FileGroup, ParquetSource},
        },
        execution::{SessionStateBuilder, object_store::ObjectStoreUrl},
        logical_expr::Expr,
        physical_plan::displayable,
        prelude::{SessionConfig, SessionContext},
    };
    use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
    use parquet::arrow::ArrowWriter;
    use proptest::{prelude::*, test_runner::Config};

    use super::*;
    use crate::{session, udf::rows_of};

    const STORE: &str = "memory://";

    /// Rows in files that are cut between blocks, two files for each part.
    #[derive(Debug)]
    struct Files {
        schema: SchemaRef,
        groups: Vec<FileGroup>,
    }

    #[async_trait]
    impl TableProvider for Files {
        fn schema(&self) -> SchemaRef {
            Arc::clone(&self.schema)
        }

        fn table_type(&self) -> TableType {
            TableType::Base
        }

        async fn scan(
            &self,
            _: &dyn Session,
            projection: Option<&Vec<usize>>,
            _: &[Expr],
            _: Option<usize>,
        ) -> Result<Arc<dyn ExecutionPlan>> {
            let ordering = |column: usize| {
                let column = Arc::new(Column::new(self.schema.field(column).name(), column));
                LexOrdering::new([PhysicalSortExpr::new(column, SortOptions::new(false, false))])
            };
            let source = Arc::new(ParquetSource::new(Arc::clone(&self.schema)));
            let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE)?, source)
                .with_file_groups(self.groups.clone())
                .with_output_ordering((0..2).filter_map(ordering).collect())
                .with_projection_indices(projection.cloned())?
                .build();
            Ok(DataSourceExec::from_data_source(config))
        }
    }

    const PARTS: usize = 4;

    /// The rows of each block, in files and in memory.
    async fn both(tables: [&[Vec<i64>]; 2]) -> SessionContext {
        let config = SessionConfig::new().with_target_partitions(PARTS);
        let context = session::context(SessionStateBuilder::new().with_config(config));
        let store = Arc::new(InMemory::new());
        let url = ObjectStoreUrl::parse(STORE).expect("a URL");
        context.runtime_env().register_object_store(url.as_ref(), Arc::clone(&store) as _);
        let field = |name, ty| Field::new(name, ty, false);
        let schema = Arc::new(Schema::new(vec![
            field("_block_num", DataType::UInt64),
            field("block_num", DataType::UInt64),
            field("n", DataType::Int64),
        ]));
        let bounds = |first: usize, last: usize| ColumnStatistics {
            min_value: Precision::Inexact(ScalarValue::UInt64(Some(first as u64))),
            max_value: Precision::Inexact(ScalarValue::UInt64(Some(last as u64))),
            ..ColumnStatistics::new_unknown()
        };
        for (name, blocks) in ["a", "b"].into_iter().zip(tables) {
            let (mut all, mut files) = (vec![], vec![]);
            let per_file = blocks.len().div_ceil(PARTS * 2);
            for (at, part) in blocks.chunks(per_file).enumerate() {
                let first = at * per_file;
                let rows = part
                    .iter()
                    .enumerate()
                    .flat_map(|(block, rows)| rows.iter().map(move |n| ((first + block) as u64, *n)));
                let (numbers, values): (Vec<u64>, Vec<i64>) = rows.unzip();
                let numbers: ArrayRef = Arc::new(UInt64Array::from(numbers));
                let columns = vec![Arc::clone(&numbers), numbers, Arc::new(Int64Array::from(values))];
                let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch");
                let mut file = vec![];
                let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), None).expect("a writer");
                writer.write(&batch).expect("rows");
                writer.close().expect("a file");
                let path = Path::from(format!("{name}/{at}.parquet"));
                store.put(&path, file.into()).await.expect("it is stored");
                let meta = store.head(&path).await.expect("it is there");
                let mut statistics = Statistics::new_unknown(&schema);
                for column in 0..2 {
                    statistics.column_statistics[column] = bounds(first, first + part.len() - 1);
                }
                files.push(PartitionedFile::new_from_meta(meta).with_statistics(Arc::new(statistics)));
                all.push(batch);
            }
            let groups = files.chunks(2).map(|files| FileGroup::new(files.to_vec())).collect();
            let table = Files { schema: Arc::clone(&schema), groups };
            context.register_table(name, Arc::new(table)).expect("a table");
            let memory = MemTable::try_new(Arc::clone(&schema), vec![all]).expect("a table");
            context.register_table(format!("{name}_in_memory"), Arc::new(memory)).expect("a table");
        }
        context
    }

    async fn shares_out(context: &SessionContext, sql: &str) -> bool {
        let plan = context.sql(sql).await.expect(sql).create_physical_plan().await.expect(sql);
        displayable(plan.as_ref()).indent(false).to_string().contains("Hash(")
    }

    #[tokio::test]
    async fn the_rows_of_a_block_are_not_shared_out() {
        let blocks: Vec<Vec<i64>> = (0..40).map(|block| vec![block, -block]).collect();
        let context = both([&blocks, &blocks]).await;
        for (sql, is_shared_out) in [
            ("SELECT block_num, count(*) FROM a GROUP BY block_num", false),
            ("SELECT _block_num, count(*) FROM a GROUP BY _block_num", false),
            ("SELECT block_num, n, count(*) FROM a GROUP BY block_num, n", false),
            (
                "SELECT block_num AS b, sum(n) AS s FROM a WHERE n > 3 GROUP BY b ORDER BY s DESC LIMIT 3",
                false,
            ),
            ("SELECT DISTINCT block_num FROM (SELECT block_num FROM a WHERE n % 2 = 0)", false),
            ("SELECT rank() OVER (PARTITION BY block_num ORDER BY n) FROM a", false),
            ("SELECT max(c) FROM (SELECT count(*) AS c FROM a GROUP BY block_num)", false),
            ("SELECT block_num / 2 AS b, count(*) FROM a GROUP BY b", true),
            ("SELECT n, count(*) FROM a GROUP BY n", true),
            (
                "SELECT block_num, count(*) FROM (SELECT * FROM a UNION ALL SELECT * FROM b) GROUP BY block_num",
                true,
            ),
        ] {
            assert_eq!(shares_out(&context, sql).await, is_shared_out, "{sql}");
        }
        // Too few blocks for all parts.
        let context = both([&blocks[..3], &blocks]).await;
        assert!(shares_out(&context, "SELECT block_num, count(*) FROM a GROUP BY block_num").await);
    }

    proptest! {
        #![proptest_config(Config { cases: 16, ..Config::default() })]

        #[test]
        fn answers_are_those_of_rows_in_memory(
            a in proptest::collection::vec(proptest::collection::vec(0..9_i64, 0..5), 1..60),
            b in proptest::collection::vec(proptest::collection::vec(0..9_i64, 0..5), 1..60),
        ) {
            let per_block = |table: &str| format!("(SELECT block_num, sum(n) AS s FROM {table} GROUP BY block_num)");
            let (of_a, of_b) = (per_block("a "), per_block("b "));
            let questions = [
                format!("SELECT * FROM {of_a} ORDER BY s DESC, block_num LIMIT 10"),
                "SELECT block_num, n, count(*) AS c FROM a GROUP BY block_num, n ORDER BY 1, 2".to_owned(),
                format!("SELECT * FROM {of_a} x JOIN {of_b} y ON x.block_num = y.block_num ORDER BY 1"),
                format!("SELECT * FROM {of_a} x FULL JOIN b ON x.block_num = b.block_num ORDER BY 1, 3, 5"),
                format!("SELECT * FROM a WHERE block_num IN (SELECT block_num FROM {of_b} WHERE s > 4) ORDER BY 1, 3"),
                format!("SELECT block_num, count(*) AS c FROM ({of_a} UNION ALL {of_b}) GROUP BY block_num ORDER BY 1"),
                "SELECT block_num, n, row_number() OVER (PARTITION BY block_num ORDER BY n) AS r FROM a ORDER BY 1, 2, 3"
                    .to_owned(),
                "SELECT _block_num, first_value(n ORDER BY n DESC) AS f FROM a GROUP BY _block_num ORDER BY 1".to_owned(),
                "SELECT block_num, n, count(*) AS c FROM a GROUP BY ROLLUP (block_num, n) ORDER BY 1, 2".to_owned(),
                format!("SELECT max(s), count(*) FROM {of_a}"),
            ];
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let context = both([&a, &b]).await;
                for question in questions {
                    let memory =
                        question.replace("FROM a", "FROM a_in_memory").replace("FROM b", "FROM b_in_memory").replace("JOIN b", "JOIN b_in_memory AS b");
                    let memory = memory.replace("FROM a_in_memory", "FROM a_in_memory AS a");
                    let files = rows_of(&context, &question).await.expect(&question);
                    let memory = rows_of(&context, &memory).await.expect(&memory);
                    assert_eq!(files, memory, "{question}");
                }
            });
        }
    }
}

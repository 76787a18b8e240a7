-- What the meters report; and now and then somebody corrects or deletes a row.
CREATE TABLE usage (
	id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	customer text NOT NULL,
	kwh      numeric(10, 3) NOT NULL,
	used_at  timestamptz NOT NULL
);
ALTER TABLE usage REPLICA IDENTITY FULL;

-- Months as in Berlin, where March is an hour short and October an hour long.  A
-- month shows when it is over, three hours after midnight for meters that report
-- late, and can be corrected for a year.
CREATE TABLE monthly_usage
WITH (weir.continuous, weir.emit = 'final', weir.watermark = '3 hours',
      weir.allowed_lateness = '365 days', weir.changelog_retention = 'off')
AS SELECT customer, weir.tumble(used_at, '1 month', tz => 'Europe/Berlin') AS month,
          sum(kwh) AS kwh, round(sum(kwh) * 0.31, 2) AS amount
   FROM usage GROUP BY customer, month;

-- The changelog is the journal: what closes is invoiced, what is taken back is
-- credited, in an order that nobody changes any more.
CREATE VIEW documents AS
SELECT weir_seq AS number,
	CASE weir_diff WHEN 1 THEN 'invoice' ELSE 'credit note' END AS document,
	customer, to_char(lower(month) AT TIME ZONE 'Europe/Berlin', 'YYYY-MM') AS month,
	weir_diff * kwh AS kwh, weir_diff * amount AS amount, weir_reason AS because
FROM monthly_usage_changes;

-- The shop's table.  FULL, because daily_revenue must know what a changed or
-- deleted order was worth before.
CREATE TABLE orders (
	id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	product    text NOT NULL,
	quantity   integer NOT NULL,
	price      numeric(10, 2) NOT NULL,
	status     text NOT NULL DEFAULT 'open',
	ordered_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE orders REPLICA IDENTITY FULL;

-- What each product brought in on each day, a moment behind the shop.
CREATE TABLE daily_revenue
WITH (weir.continuous)
AS SELECT product, weir.tumble(ordered_at, '1 day') AS day,
          count(*) AS orders, sum(quantity * price) AS revenue
   FROM orders
   WHERE status <> 'cancelled'
   GROUP BY product, day;

-- The warehouse's own table, refreshed from the view by refresh.sql.
CREATE TABLE report (
	day        date NOT NULL,
	product    text NOT NULL,
	orders     bigint NOT NULL,
	revenue    numeric NOT NULL,
	changed_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (day, product)
);
